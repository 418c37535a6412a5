//! Every case of the repository must come out as it says, by both judges.

use std::path::PathBuf;
use std::{fs, io};

use caracal_model::case::report::{CaseReport, CaseResult, Report};
use caracal_offline::run::{Judge, run};

/// What came of the repository's cases.
fn judged(by: Judge) -> io::Result<Vec<CaseReport>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/cases");
    let entries = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    let mut files: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    let run_file = |path: PathBuf| Ok(run(&path.display().to_string(), &fs::read_to_string(path)?, by));
    files.into_iter().map(run_file).collect()
}

/// The report of those that did not pass.
fn not_passed(mut cases: Vec<CaseReport>) -> Report {
    cases.retain(|case| case.result != CaseResult::Pass);
    Report { cases }
}

#[test]
fn the_reference_agrees_with_every_case() {
    let report = not_passed(judged(Judge::Reference).unwrap());
    assert!(report.cases.is_empty(), "{report}");
}

#[test]
fn the_production_judge_agrees_with_every_case() {
    let report = not_passed(judged(Judge::Production).unwrap());
    assert!(report.cases.is_empty(), "{report}");
}

#[test]
fn there_are_as_many_cases_as_promised() {
    let cases = judged(Judge::Reference).unwrap();
    assert!(cases.len() >= 50, "only {} cases", cases.len());
}
