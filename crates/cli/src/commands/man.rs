//! `tcpunch man`: the manual pages, made of what `--help` says.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use clap::{Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use crate::args::{Cli, Man as Flags};
use crate::exit::{self, Failure, code};
use crate::help;
use crate::term::Talk;

pub(crate) fn run(flags: &Flags, talk: &Talk) -> Result<u8, Failure> {
    let mut all = Cli::command().disable_help_subcommand(true);
    all.build();
    let Some(directory) = &flags.dir else {
        let page = page(&all).map_err(Failure::internal)?;
        talk.page(&String::from_utf8_lossy(&page));
        return Ok(code::OK);
    };
    for command in std::iter::once(&all).chain(all.get_subcommands()) {
        write(command, directory)
            .map_err(|error| Failure::local(format!("{}: {error}", directory.display())))?;
    }
    Ok(code::OK)
}

fn write(command: &Command, directory: &Path) -> io::Result<()> {
    let name = Man::new(command.clone()).get_filename();
    File::create(directory.join(name))?.write_all(&page(command)?)
}

fn page(command: &Command) -> io::Result<Vec<u8>> {
    let man = Man::new(command.clone());
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    let mut roff = Roff::new();
    roff.control("SH", ["EXAMPLES"]);
    for example in help::examples(command.get_name()) {
        roff.control("TP", []);
        roff.text([bold(example.line)]);
        roff.text([roman(example.does)]);
    }
    roff.control("SH", ["EXIT STATUS"]);
    for (code, meaning) in exit::CODES {
        roff.control("TP", []);
        roff.text([bold(code.to_string())]);
        roff.text([roman(*meaning)]);
    }
    roff.control("SH", ["ENVIRONMENT"]);
    for (variable, meaning) in help::ENVIRONMENT {
        roff.control("TP", []);
        roff.text([bold(*variable)]);
        roff.text([roman(*meaning)]);
    }
    roff.to_writer(&mut page)?;
    if command.get_version().is_some() {
        man.render_version_section(&mut page)?;
    }
    Ok(page)
}
