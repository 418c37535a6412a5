//! `caracal policy`: judges case files without a network; explaining and selectors have files of their own.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{fs, thread};

use anyhow::{Context, bail};
use caracal_model::case::report::{CaseReport, Report};
use caracal_offline::run::{Judge, run as run_case};
use clap::{Subcommand, ValueEnum};

use crate::table::emit;
use crate::{explain, selector};

/// Look at network policy.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Test(TestArgs),
    Explain(Box<explain::Args>),
    Selector(selector::Args),
}

const EXAMPLES: &str = "Examples:
  caracal policy test tests/cases/three-tiers.yaml
  caracal policy test --reference tests/cases tests/cases/offline
  caracal policy test tests/cases -o json";

/// Judge the flows of case files offline: no root, no network.
///
/// By default the production control plane, tables and pipeline judge, in memory. Exit status: 0 when everything was as the
/// cases expect, 1 when something was not, 2 when a case could not be read.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
struct TestArgs {
    /// Let the slow reference evaluator judge: a plain reading of the rules.
    #[arg(long)]
    reference: bool,
    /// How to print the report.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// Case files, or folders of them.
    #[arg(value_name = "CASE", required = true)]
    cases: Vec<PathBuf>,
}

/// How a report is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// A table for people.
    Table,
    /// One JSON document.
    Json,
}

/// Runs `caracal policy`.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Test(args) => test(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Selector(args) => selector::run(&args),
    }
}

fn test(args: &TestArgs) -> anyhow::Result<ExitCode> {
    let judge = if args.reference { Judge::Reference } else { Judge::Production };
    let files = case_files(&args.cases)?;
    let report = Report { cases: run_all(&files, judge) };
    Ok(print_report(&report, args.output))
}

/// The files that the arguments name: a file is itself, a folder its `.yaml` and `.yml` files in the order of their names.
pub(crate) fn case_files(arguments: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for argument in arguments {
        if !argument.is_dir() {
            files.push(argument.clone());
            continue;
        }
        let entries = fs::read_dir(argument)
            .with_context(|| format!("cannot list the folder {}", argument.display()))?;
        let mut found = Vec::new();
        for entry in entries {
            let path =
                entry.with_context(|| format!("cannot list the folder {}", argument.display()))?.path();
            if path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml") {
                found.push(path);
            }
        }
        if found.is_empty() {
            bail!("there is no case file (.yaml, .yml) in {}", argument.display());
        }
        found.sort();
        files.append(&mut found);
    }
    Ok(files)
}

/// Prints a report and returns its exit status. Cases with errors are named on stderr, too.
pub(crate) fn print_report(report: &Report, output: Output) -> ExitCode {
    for case in &report.cases {
        if let Some(error) = &case.error {
            eprintln!("caracal: {}: {error}", case.file);
        }
    }
    match output {
        Output::Table => emit(&report.to_string()),
        Output::Json => emit(&format!("{}\n", report.to_json())),
    }
    ExitCode::from(report.exit_status())
}

/// Runs every case, as many at once as there are cores; the reports are in the order of the files.
fn run_all(files: &[PathBuf], judge: Judge) -> Vec<CaseReport> {
    let next = AtomicUsize::new(0);
    let cores = thread::available_parallelism().map_or(1, usize::from).min(files.len());
    let mut reports: Vec<(usize, CaseReport)> = thread::scope(|scope| {
        let work = || {
            let take = || {
                let index = next.fetch_add(1, Ordering::Relaxed);
                files.get(index).map(|file| (index, run_file(file, judge)))
            };
            std::iter::from_fn(take).collect::<Vec<_>>()
        };
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().flat_map(join).collect()
    });
    reports.sort_by_key(|(index, _)| *index);
    reports.into_iter().map(|(_, report)| report).collect()
}

fn run_file(file: &Path, judge: Judge) -> CaseReport {
    let name = file.display().to_string();
    match fs::read_to_string(file) {
        Ok(text) => run_case(&name, &text, judge),
        Err(error) => CaseReport::error(name, "", format!("cannot read the file: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_its_case_files_in_the_order_of_their_names() {
        let folder = std::env::temp_dir().join(format!("caracal-policy-test-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        for name in ["b.yaml", "a.yml", "c.txt"] {
            fs::write(folder.join(name), "").unwrap();
        }
        let found = case_files(&[folder.clone(), PathBuf::from("given.yaml")]);
        fs::remove_dir_all(&folder).unwrap();
        let names: Vec<PathBuf> = ["a.yml", "b.yaml"].iter().map(|name| folder.join(name)).collect();
        assert_eq!(found.unwrap(), [names, vec![PathBuf::from("given.yaml")]].concat());
    }

    #[test]
    fn a_folder_without_case_files_is_an_error() {
        let folder = std::env::temp_dir().join(format!("caracal-policy-empty-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let found = case_files(std::slice::from_ref(&folder));
        fs::remove_dir_all(&folder).unwrap();
        assert!(found.unwrap_err().to_string().contains("no case file"));
    }

    #[test]
    fn a_file_that_cannot_be_read_is_a_case_with_an_error() {
        let reports = run_all(&[PathBuf::from("/nonexistent/case.yaml")], Judge::Reference);
        assert_eq!(reports.len(), 1);
        assert!(reports[0].error.as_deref().unwrap().contains("cannot read the file"));
    }
}
