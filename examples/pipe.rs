//! A pipe with the library: standard input of each side to standard output of the other.
//!
//! ```sh
//! tar c photos | cargo run --example pipe listen BROKER    # prints a code
//! cargo run --example pipe connect CODE | tar x
//! ```
#![allow(clippy::print_stderr, reason = "a program that talks to whoever runs it")]

use std::error::Error;

use tcpunch::{Code, Connection, Endpoint};
use tokio::io::{copy_bidirectional, join, stdin, stdout};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let mut connection = match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["listen", broker] => listen(broker).await?,
        ["connect", code] => connect(code).await?,
        _ => return Err("type: pipe listen BROKER, or: pipe connect CODE".into()),
    };
    // Standard output is for the other side's bytes; what is said here goes to standard error.
    let info = connection.info();
    eprintln!("{} {} <-> {} in {:?}", info.path, info.local, info.remote, info.elapsed);
    // Each direction ends for itself: `tar c | listen` has nothing to receive and does not wait for it.
    copy_bidirectional(&mut connection, &mut join(stdin(), stdout())).await?;
    // Both have ended; this waits until the other side has everything.
    connection.close().await?;
    Ok(())
}

async fn listen(broker: &str) -> Result<Connection, Box<dyn Error>> {
    let endpoint = Endpoint::builder().broker(broker.parse()?).bind().await?;
    let mut invite = endpoint.invite().await?;
    eprintln!("code {}", invite.code());
    Ok(invite.accept().await?)
}

async fn connect(code: &str) -> Result<Connection, Box<dyn Error>> {
    let code: Code = code.parse()?;
    let broker = code.broker.as_deref().ok_or("the code names no broker")?;
    let endpoint = Endpoint::builder().broker(broker.parse()?).bind().await?;
    Ok(endpoint.connect(code).await?)
}
