//! The `warpnorm` command.

mod arguments;
mod fold;
mod info;
mod json;
mod progress;
mod table;

use std::process::ExitCode;

use clap::Parser;

use arguments::{Arguments, Command};

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Fold(arguments) => match fold::run(&arguments) {
            Ok(outcome) => outcome.into(),
            Err(error) => {
                eprintln!("warpnorm: {error}");
                fold::Outcome::Unreadable.into()
            }
        },
        Command::Info => {
            print!("{}", info::text());
            ExitCode::SUCCESS
        }
    }
}
