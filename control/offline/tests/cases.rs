//! Every case of the repository must come out as it says, by both judges.

use std::fs;
use std::path::PathBuf;

use caracal_model::case::report::{CaseResult, Report};
use caracal_offline::run::{Judge, run};

fn assert_every_case_passes(judge: Judge) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/cases");
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.map(|entry| entry.path()).unwrap_or_default())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    assert!(files.len() >= 50, "{} has only {} cases", folder.display(), files.len());
    let run_file = |path: &PathBuf| {
        let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        run(&path.display().to_string(), &text, judge)
    };
    let bad: Vec<_> = files.iter().map(run_file).filter(|case| case.result != CaseResult::Pass).collect();
    assert!(bad.is_empty(), "{}", Report { cases: bad });
}

#[test]
fn the_reference_agrees_with_every_case() {
    assert_every_case_passes(Judge::Reference);
}

#[test]
fn the_production_judge_agrees_with_every_case() {
    assert_every_case_passes(Judge::Production);
}
