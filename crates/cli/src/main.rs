//! The command line of tcpunch.

mod args;
mod child;
mod commands;
mod exit;
mod masked;
mod payload;
mod setup;
mod show;
mod term;
mod visible;

use clap::Parser;

use crate::args::{Cli, Command};
use crate::exit::{Failure, code};
use crate::term::Talk;

fn main() {
    let cli = Cli::parse();
    setup::raise_descriptors();
    // Not beside JSON, of which every line is an event.
    if cli.common.verbose && !cli.common.json {
        tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter("tcpunch=debug").init();
    }
    let payload = matches!(cli.command, Command::Listen(_) | Command::Connect(_));
    let talk = Talk::new(&cli.common, payload);
    let exit = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => {
            let exit = runtime.block_on(run(cli, &talk));
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
    // Not by returning: a thread that reads standard input can't be stopped.
    std::process::exit(i32::from(exit));
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
    }
}

async fn interruptible(command: impl Future<Output = Result<u8, Failure>>) -> Result<u8, Failure> {
    tokio::select! {
        result = command => result,
        _ = tokio::signal::ctrl_c() => Ok(code::INTERRUPTED),
    }
}
