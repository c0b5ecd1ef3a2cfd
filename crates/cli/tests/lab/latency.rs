//! How long it takes from being registered to a path. The median is printed; only a gross miss is a failure.

use std::time::{Duration, Instant};

use libtest_mimic::Trial;

use crate::kinds::Kind;
use crate::scene::{Pipe, Scene};
use crate::trial;

const RUNS: usize = 11;
/// Promised are 15 ms on an idle machine; beyond this something is broken on any.
const GROSS: Duration = Duration::from_millis(150);

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("latency::of_connect", || measured("connect", connect)),
        trial("latency::of_chat", || measured("chat", chat)),
    ]
}

fn measured(what: &str, run: impl Fn(&Scene, [&natlab::kernel::Host; 2], &natlab::kernel::Host) -> Duration) {
    let mut times: Vec<Duration> = (0..RUNS)
        .map(|_| {
            let scene = Scene::new();
            let (broker_host, _broker) = scene.broker();
            let [one, other] =
                ["one", "other"].map(|name| Kind::PreservingDrop.site(&scene.lab, name, Duration::ZERO));
            run(&scene, [&one, &other], &broker_host)
        })
        .collect();
    times.sort();
    let median = times[RUNS / 2];
    println!(
        "{what}, two dropping NATs, no delay: median {median:.1?} from the second's registration to the later path, \
         least {:.1?}, most {:.1?}",
        times[0],
        times[RUNS - 1]
    );
    assert!(median < GROSS, "the median of {what} is {median:?}");
}

fn connect(
    scene: &Scene,
    [one, other]: [&natlab::kernel::Host; 2],
    broker: &natlab::kernel::Host,
) -> Duration {
    let mut listen = scene.start(one, "listen", &["--broker", &broker.ipv4().to_string()]);
    let code = listen.event("code").text("code").to_owned();
    let mut connect = scene.start(other, "connect", &[&code]);
    let registered = connect.event("registered").at;
    let pipe = Pipe::meet(listen, connect);
    later(&pipe.paths.iter().map(|path| path.at).collect::<Vec<_>>()) - registered
}

fn chat(scene: &Scene, [one, other]: [&natlab::kernel::Host; 2], broker: &natlab::kernel::Host) -> Duration {
    let broker = broker.ipv4().to_string();
    let mut first = scene.start(one, "chat", &["--broker", &broker]);
    first.event("waiting");
    let mut second = scene.start(other, "chat", &["--broker", &broker]);
    let registered = second.event("registered").at;
    later(&[first.event("path").at, second.event("path").at]) - registered
}

fn later(times: &[Instant]) -> Instant {
    *times.iter().max().unwrap()
}
