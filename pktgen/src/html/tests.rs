use super::*;
use crate::results::{Results, Row};

/// Checks that elements are closed in order and attributes quoted, and that nothing outside is named. Returns the text.
fn well_formed(page: &str) -> String {
    assert!(page.starts_with("<!DOCTYPE html>"));
    for outside in ["http:", "https:", "<script", "<link", "<img", "url(", "@import", "src=", "href="] {
        assert!(!page.contains(outside), "the page refers to something outside: {outside}");
    }
    let (mut open, mut text) = (Vec::new(), String::new());
    let mut rest = &page["<!DOCTYPE html>".len()..];
    while let Some(at) = rest.find('<') {
        text.push_str(&rest[..at]);
        let end = at + rest[at..].find('>').expect("a tag ends");
        let tag = &rest[at + 1..end];
        rest = &rest[end + 1..];
        assert_eq!(tag.matches('"').count() % 2, 0, "quotes in <{tag}>");
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name), "<{tag}> closes another");
        } else if !tag.ends_with('/') {
            open.push(tag.split_whitespace().next().expect("a tag has a name").to_owned());
        }
        if tag == "style" {
            let end = rest.find("</style>").expect("the style ends");
            rest = &rest[end..];
        }
    }
    assert!(open.is_empty(), "left open: {open:?}");
    assert!(!page.contains("NaN") && !page.contains("inf\""), "a drawing with no number in it");
    text
}

fn row(name: &str, subject: &str, [min, median, max]: [f64; 3]) -> Row {
    let (metric, unit) =
        if name.starts_with("mem/") { ("time", "ns/packet") } else { ("received", "packets/s") };
    let (name, subject, metric, unit) = (name.into(), subject.into(), metric.into(), unit.into());
    Row { name, subject, metric, unit, min, median, max, rounds: 7 }
}

fn results() -> Results {
    let rows = vec![
        row("veth/forward/64", "caracal", [400_000.0, 412_345.0, 420_000.0]),
        row("veth/forward/64", "kernel", [290_000.0, 300_000.0, 310_000.0]),
        row("veth/forward/512", "caracal", [300_000.0, 310_000.0, 320_000.0]),
        row("veth/forward/1400", "caracal", [200_000.0, 210_000.0, 220_000.0]),
        row("mem/first-packet/rules-1000", "caracal", [95.0, 97.5, 99.0]),
        row("mem/first-packet/rules-1000", "dp<dk>", [40.0, 44.25, 50.0]),
    ];
    let machine = "Linux 6.18\nCPU(s):   4\nModel name:  A & B <c>\ncommit abc, dirty: 3 files differ\nstart: x, load 3.5 1 1";
    Results {
        title: "2026-11-21".into(),
        rows,
        machine: Some(machine.into()),
        command: Some("scripts/bench".into()),
    }
}

#[test]
fn a_page_of_results_is_well_formed_and_has_the_figures() {
    let text = well_formed(&results_page(&results(), None));
    for figure in [
        "412 k",
        "300 k",
        "×1.37",
        "44.2",
        "97.5",
        "×0.45",
        "We lose (1)",
        "We win (1)",
        "dp&lt;dk&gt;",
        "A &amp; B",
    ] {
        assert!(text.contains(figure), "{figure} is not in the page");
    }
    assert!(text.contains("work tree was not clean") && text.contains("its load was 3.5 on 4 CPUs"));
}

#[test]
fn a_page_says_what_changed_since_another_run() {
    let mut then = results();
    then.rows[0] = row("veth/forward/64", "caracal", [190_000.0, 200_000.0, 210_000.0]);
    then.title = "former".into();
    let text = well_formed(&results_page(&results(), Some(&then)));
    assert!(text.contains("Against former") && text.contains("×2.06"), "{text}");
    assert!(text.contains("Not resolved (5)"));
}

#[test]
fn a_page_without_figures_is_still_a_page() {
    well_formed(&results_page(&Results::default(), Some(&Results::default())));
}
