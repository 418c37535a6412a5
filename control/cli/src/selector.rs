//! `caracal policy selector`: what a selector means, and whether it matches.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::{Context, bail};
use caracal_model::labels::Labels;
use caracal_model::selector::{Selector, SelectorError};
use serde_json::json;

use crate::policy::Output;
use crate::table::emit;

const EXAMPLES: &str = r#"Examples:
  caracal policy selector -- 'app in {"web","api"}&&!has(legacy)'
  caracal policy selector --labels app=web,env=prod -- 'app == "web" && env != "test"'
  caracal policy selector --labels '' -- 'env != "prod"'      # no labels at all: != matches
"#;

/// Read a selector: print its canonical form and, with --labels, whether it matches them.
///
/// Exit status: 0 when it matches, or is valid and no labels were given; 1 when it does not match; 2 when it is no selector: then
/// stderr says where, and what was expected there.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Labels to match, k=v,k2=v2; may be empty.
    #[arg(long, value_name = "LABELS")]
    labels: Option<String>,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// The selector; blank is all().
    #[arg(value_name = "EXPR")]
    expression: String,
}

/// Runs `caracal policy selector`.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let labels = args.labels.as_deref().map(parse_labels).transpose().context("--labels")?;
    let selector = match Selector::parse(&args.expression) {
        Ok(selector) => selector,
        Err(error) => {
            if args.output == Output::Json {
                let error = json!({"column": error.column, "message": error.message});
                emit(&format!("{:#}\n", json!({"valid": false, "error": error})));
            }
            eprintln!("caracal: {error}\n{}", pointer(&args.expression, &error));
            return Ok(ExitCode::from(2));
        }
    };
    let matches = labels.map(|labels| selector.matches(&labels));
    emit(&match (args.output, matches) {
        (Output::Json, None) => {
            format!("{:#}\n", json!({"valid": true, "selector": selector.to_string()}))
        }
        (Output::Json, Some(matches)) => {
            let document = json!({"valid": true, "selector": selector.to_string(), "match": matches});
            format!("{document:#}\n")
        }
        (Output::Table, None) => format!("{selector}\n"),
        (Output::Table, Some(true)) => format!("{selector}\nmatch\n"),
        (Output::Table, Some(false)) => format!("{selector}\nno match\n"),
    });
    Ok(ExitCode::from(u8::from(matches == Some(false))))
}

fn parse_labels(text: &str) -> anyhow::Result<Labels> {
    let mut labels = BTreeMap::new();
    for pair in text.split(',').map(str::trim).filter(|_| !text.trim().is_empty()) {
        let Some((key, value)) = pair.split_once('=').filter(|(key, _)| !key.is_empty()) else {
            bail!("{pair:?} is not key=value; write them as k=v,k2=v2");
        };
        if labels.insert(key.to_owned(), value.to_owned()).is_some() {
            bail!("{key} is given twice");
        }
    }
    Ok(Labels::from(&labels))
}

/// How much of an expression is shown on either side of the place that is wrong.
const CONTEXT: usize = 40;

/// The expression, or the part of it around the error, with a caret under the place.
fn pointer(expression: &str, error: &SelectorError) -> String {
    let at = error.column.saturating_sub(1);
    let start = at.saturating_sub(CONTEXT);
    // What would move the cursor is shown as a blank, so that the caret stands right.
    let shown = expression.chars().map(|c| if c.is_control() { ' ' } else { c });
    let shown: String = shown.skip(start).take(2 * CONTEXT).collect();
    format!("  {}\n  {}^", shown.trim_end(), " ".repeat(at - start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caret_is_under_the_place_that_is_wrong() {
        let shown = |text: &str| pointer(text, &Selector::parse(text).unwrap_err());
        assert_eq!(shown("a = 'b'"), "  a = 'b'\n    ^");
        assert_eq!(shown("has(a) &&"), "  has(a) &&\n           ^");
        assert_eq!(shown("a\n== 'b'"), "  a == 'b'\n   ^");
        let long = format!("{} has(", "has(a) && ".repeat(100));
        let pointed = shown(&long);
        let (text, caret) = pointed.split_once('\n').unwrap();
        assert!(text.ends_with("has("), "{pointed}");
        assert_eq!(caret.chars().count(), text.chars().count() + 1, "{pointed}");
    }

    #[test]
    fn labels_may_be_none_and_values_empty() {
        let text = |text: &str| parse_labels(text).map(|labels| labels.to_string());
        assert_eq!(text("").unwrap(), "");
        assert_eq!(text(" ").unwrap(), "");
        assert_eq!(text("b=2, a=").unwrap(), "a=,b=2");
        for wrong in ["a", "a=1,", "=1", "a=1,a=2"] {
            assert!(parse_labels(wrong).is_err(), "{wrong:?} was taken");
        }
    }
}
