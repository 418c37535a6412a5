//! `pktgen report`: what was measured, once more: as tables, or as a page.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::files;
use crate::html::{self, Named};
use crate::report::Report;
use crate::results::{Contest, Results, Verdict, quantity};
use crate::run::Output;
use crate::search::{self, rfc2544};

const EXAMPLES: &str = "\
Examples:
  Three runs held against one another, with plots of latency, rate and loss:
    pktgen report quiet.json loaded.json changed.json --html runs.html
  Two subjects side by side, as a page and in the terminal:
    pktgen report bench-results/2026-11-21-0955-a17c5fb-vm --html side-by-side.html
  What a change did; exit status 1 if anything became worse than noise explains:
    pktgen report bench-results/NOW --against bench-results/THEN --expect-no-worse

Exit status: 0 done; 1 --expect-no-worse, and something is; 2 could not run.";

/// Show what was measured, and hold runs against one another: in the terminal, or as an HTML page that needs no other file
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// What pktgen run, search, rfc2544 or soak printed with --output json (of run also several); or results of scripts/bench (the folder, or results.json)
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Write the page there
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Results of scripts/bench that these are held against
    #[arg(long, value_name = "RUN")]
    against: Option<PathBuf>,
    /// Exit status 1 if a figure is worse than that of --against, and not by noise
    #[arg(long, requires = "against")]
    expect_no_worse: bool,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

/// Runs `pktgen report`.
///
/// # Errors
/// A file cannot be read or written, or is not what this program writes.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let [path] = args.runs.as_slice() else { return runs(args) };
    let value = (!path.is_dir()).then(|| read(path)).transpose()?;
    let name = stem(path);
    match value {
        Some(value) if value.get("sizes").is_some_and(Value::is_array) => {
            let found = parse(path, value)?;
            page(args, || html::rfc2544_page(&name, &found))?;
            rfc2544::print(&found, args.output)?;
            return Ok(ExitCode::SUCCESS);
        }
        Some(value) if value.get("results").is_some() => {
            let found = parse(path, value)?;
            page(args, || html::search_page(&name, &found))?;
            search::print(&found, args.output)?;
            return Ok(ExitCode::SUCCESS);
        }
        Some(Value::Object(_)) => return runs(args),
        _ => {}
    }
    let results = Results::read(path)?;
    let former = args.against.as_deref().map(Results::read).transpose()?;
    page(args, || html::results_page(&results, former.as_ref()))?;
    let (contests, changes) =
        (results.contests(), former.as_ref().map(|former| results.changes(former)).unwrap_or_default());
    match args.output {
        Output::Json => {
            #[derive(Serialize)]
            struct Said<'a> {
                contests: Vec<Contest<'a>>,
                changes: &'a [Contest<'a>],
            }
            files::print_json(&Said { contests, changes: &changes })?;
        }
        Output::Table if args.against.is_some() => {
            print_contests(&changes, ["better than then", "worse", "noise"], |c| c.ours.subject.clone())?;
        }
        Output::Table => {
            print_contests(&contests, ["won", "LOST", "not resolved"], |c| c.other.subject.clone())?;
        }
    }
    let worse = changes.iter().any(|change| change.verdict == Verdict::Worse);
    Ok(if args.expect_no_worse && worse { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn page(args: &Args, page: impl FnOnce() -> String) -> anyhow::Result<()> {
    args.html.as_deref().map_or(Ok(()), |file| files::write(file, &page()))
}

fn read(path: &Path) -> anyhow::Result<Value> {
    let text = files::read_text(path)?;
    serde_json::from_str(&text).with_context(|| format!("{} is not JSON", path.display()))
}

fn parse<T: DeserializeOwned>(path: &Path, value: Value) -> anyhow::Result<T> {
    serde_json::from_value(value).with_context(|| {
        format!("{} is not what pktgen --output json prints, nor results of scripts/bench", path.display())
    })
}

fn stem(path: &Path) -> String {
    path.file_stem().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into())
}

fn runs(args: &Args) -> anyhow::Result<ExitCode> {
    if args.against.is_some() {
        bail!(
            "--against is for results of scripts/bench; name several runs of pktgen to see them beside one another"
        );
    }
    let mut runs = Vec::new();
    for path in &args.runs {
        let report: Report = parse(path, read(path)?)?;
        if report.started.is_empty() && report.total.sent == 0 {
            bail!("{} is no report of pktgen run; several files are for runs only", path.display());
        }
        runs.push(Named { name: stem(path), report });
    }
    page(args, || html::runs_page(&runs))?;
    match args.output {
        Output::Json => files::print_json(&runs.iter().map(|run| &run.report).collect::<Vec<_>>())?,
        Output::Table => {
            for run in &runs {
                files::print(&format!("== {}\n{}", run.name, run.report.table()))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn print_contests(
    contests: &[Contest<'_>],
    [better, worse, noise]: [&str; 3],
    who: impl Fn(&Contest<'_>) -> String,
) -> anyhow::Result<()> {
    if contests.is_empty() {
        return files::print("There is nothing to compare.\n");
    }
    let mut out = String::new();
    let longest = |of: &dyn Fn(&Contest<'_>) -> usize| contests.iter().map(of).max().unwrap_or(0);
    let names = longest(&|c| c.ours.name.len());
    let metrics = longest(&|c| c.ours.metric.len());
    let others = longest(&|c| who(c).len());
    for c in contests {
        let said = match c.verdict {
            Verdict::Better => better,
            Verdict::Worse => worse,
            Verdict::Noise => noise,
        };
        // Writing into a String cannot fail.
        let _ = writeln!(
            out,
            "{:<names$}  {:<metrics$}  {:<others$} {:>9} {:>9}  {:<14} {:>7}  {said}",
            c.ours.name,
            c.ours.metric,
            who(c),
            quantity(c.ours.median),
            quantity(c.other.median),
            c.ours.unit,
            html::times(c.gain),
        );
    }
    let count = |verdict| contests.iter().filter(|c| c.verdict == verdict).count();
    let _ = writeln!(
        out,
        "{} {better}, {} {worse}, {} {noise}: rounds that overlap, or less than a quarter apart",
        count(Verdict::Better),
        count(Verdict::Worse),
        count(Verdict::Noise)
    );
    files::print(&out)
}
