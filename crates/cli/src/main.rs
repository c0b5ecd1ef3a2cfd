//! The command line of tcpunch.

mod args;
mod child;
mod colour;
mod commands;
mod complete;
mod editor;
mod exit;
mod fold;
mod help;
mod masked;
mod modes;
mod payload;
mod people;
mod prompt;
mod queue;
mod screen;
mod setup;
mod show;
mod term;
mod typed;
mod visible;
mod waits;

use clap::{CommandFactory, Parser};
use clap_complete::CompleteEnv;

use crate::args::{Cli, Command};
use crate::exit::{Failure, code};
use crate::term::Talk;

fn main() {
    // Where a shell asks what could be typed, that is all there is to do.
    CompleteEnv::with_factory(Cli::command).var(commands::completions::ASKED).complete();
    let cli = Cli::parse();
    setup::raise_descriptors();
    modes::restore_on_panic();
    let payload = matches!(cli.command, Command::Listen(_) | Command::Connect(_));
    let talk = Talk::new(&cli.common, payload);
    // Not beside JSON, of which every line is an event.
    if cli.common.verbose && !cli.common.json {
        let log = talk.clone();
        tracing_subscriber::fmt()
            .with_ansi(talk.colours().err)
            .with_writer(move || log.log())
            .with_env_filter("tcpunch=debug")
            .init();
    }
    let exit = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => {
            let exit = runtime.block_on(run(cli, &talk));
            runtime.block_on(talk.end());
            talk.screen().finish();
            // Dropping it would wait for the thread that reads standard input.
            runtime.shutdown_background();
            exit
        }
        Err(error) => Err(Failure::internal(error)),
    };
    let exit = exit.unwrap_or_else(|failure| {
        talk.failure(&failure);
        failure.exit
    });
    modes::exit(exit);
}

async fn run(cli: Cli, talk: &Talk) -> Result<u8, Failure> {
    let common = &cli.common;
    match cli.command {
        Command::Demo => commands::demo::run(talk).await,
        Command::Broker(broker) => commands::broker::run(common, broker, talk).await,
        // A chat ends by itself on Ctrl-C, so that the others see it leave.
        Command::Chat(chat) => commands::chat::run(common, chat, talk).await,
        Command::Listen(pipe) => interruptible(commands::listen::run(common, &pipe, talk)).await,
        Command::Connect(connect) => interruptible(commands::connect::run(common, connect, talk)).await,
        // Its series is summed up on Ctrl-C.
        Command::Ping(ping) => commands::ping::run(common, ping, talk).await,
        // Its meeting is a ping's.
        Command::Doctor(doctor) => commands::doctor::run(common, doctor, talk).await,
        Command::Completions { shell } => commands::completions::run(&shell, talk),
        Command::Man(man) => commands::man::run(&man, talk),
    }
}

async fn interruptible(command: impl Future<Output = Result<u8, Failure>>) -> Result<u8, Failure> {
    tokio::select! {
        // The signal first: from the moment that the command says anything, it is heard.
        biased;
        _ = tokio::signal::ctrl_c() => Ok(code::INTERRUPTED),
        result = command => result,
    }
}
