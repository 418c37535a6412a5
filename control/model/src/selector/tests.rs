//! What selectors match, and the one text that each has.

use proptest::prelude::*;

use super::*;

fn labels(text: &str) -> Labels {
    text.split(',').filter_map(|pair| pair.split_once('=')).collect()
}

fn values(text: &str) -> BTreeSet<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn what_is_missing_matches_only_the_negative_operators() {
    let none = Labels::new();
    assert!(!Selector::equal("a", "").matches(&none));
    assert!(!Selector::In("a".into(), values("x")).matches(&none));
    assert!(!Selector::has("a").matches(&none));
    assert!(Selector::NotEqual("a".into(), "x".into()).matches(&none));
    assert!(Selector::NotIn("a".into(), values("x")).matches(&none));
    assert!(Selector::All.matches(&none));
}

#[test]
fn an_empty_value_is_a_value() {
    assert!(Selector::has("a").matches(&labels("a=")));
    assert!(Selector::equal("a", "").matches(&labels("a=")));
    assert!(Selector::NotIn("a".into(), values("x")).matches(&labels("a=")));
}

#[test]
fn operators_compare_the_value() {
    let one = labels("a=1,b=2");
    for (selector, expected) in [
        (Selector::equal("a", "1"), true),
        (Selector::equal("a", "2"), false),
        (Selector::NotEqual("a".into(), "1".into()), false),
        (Selector::In("a".into(), values("0 1")), true),
        (Selector::In("a".into(), BTreeSet::new()), false),
        (Selector::NotIn("a".into(), values("0 1")), false),
        (Selector::NotIn("a".into(), BTreeSet::new()), true),
        (Selector::and([Selector::has("a"), Selector::has("b")]), true),
        (Selector::and([Selector::has("a"), Selector::has("c")]), false),
        (Selector::or([Selector::has("c"), Selector::has("b")]), true),
        (Selector::or([]), false),
        (Selector::and([]), true),
        (Selector::has("a").negate(), false),
    ] {
        assert_eq!(selector.matches(&one), expected, "{selector}");
    }
}

#[test]
fn the_text_is_canonical() {
    let nested = Selector::and([
        Selector::and([Selector::has("a"), Selector::All]),
        Selector::and([Selector::equal("b", "x"), Selector::NotEqual("c".into(), "it\"s".into())]),
    ]);
    assert_eq!(nested.to_string(), r#"(has(a) && b == "x" && c != 'it"s')"#);
    let either = Selector::or([Selector::NotIn("k".into(), values("b a b")), nested.clone()]);
    assert_eq!(either.to_string(), format!(r#"(k not in {{"a", "b"}} || {nested})"#));
    assert_eq!(either.clone().negate().to_string(), format!("!{either}"));
    assert_eq!(either.clone().negate().negate(), either);
    assert_eq!(Selector::and([Selector::All]).to_string(), "all()");
    assert_eq!(Selector::In("k".into(), BTreeSet::new()).to_string(), "k in {}");
}

/// The canonical form of a text.
fn canonical(text: &str) -> String {
    Selector::parse(text).map_or_else(|error| panic!("{text:?}: {error}"), |selector| selector.to_string())
}

/// Where a text goes wrong, and how.
fn refusal(text: &str) -> (usize, String) {
    match Selector::parse(text) {
        Ok(selector) => panic!("{text:?} was taken as {selector}"),
        Err(error) => (error.column, error.message),
    }
}

#[test]
fn the_canonical_form_does_not_depend_on_how_it_was_written() {
    for (text, expected) in [
        ("", "all()"),
        (" \t ", "all()"),
        ("all( )", "all()"),
        ("global()", "global()"),
        ("has( x/y.z-_ )", "has(x/y.z-_)"),
        ("a=='b'", r#"a == "b""#),
        (r#"a != 'it"s'"#, r#"a != 'it"s'"#),
        (r#"a == "it's""#, r#"a == "it's""#),
        ("a in{'c','b' , \"c\",}", r#"a in {"b", "c"}"#),
        ("a in {}", "a in {}"),
        ("a notin {'x'}", r#"a not in {"x"}"#),
        ("a not \t in {'x'}", r#"a not in {"x"}"#),
        ("a contains'x'", r#"a contains "x""#),
        ("a startswith 'x'", r#"a starts with "x""#),
        ("a ends   with 'x'", r#"a ends with "x""#),
        ("has(a)&&has(b)&&has(c)", "(has(a) && has(b) && has(c))"),
        ("(has(a) && has(b)) && has(c)", "((has(a) && has(b)) && has(c))"),
        ("has(a) || has(b) && has(c)", "(has(a) || (has(b) && has(c)))"),
        ("((has(a)))", "has(a)"),
        ("!a == 'b'", r#"!a == "b""#),
        ("! ! has(a)", "has(a)"),
        ("!(!(has(a)))", "has(a)"),
        ("!!!(has(a) || has(b))", "!(has(a) || has(b))"),
        ("all() && has(a)", "(all() && has(a))"),
        ("a == 'line\nbreak'", "a == \"line\nbreak\""),
    ] {
        assert_eq!(canonical(text), expected, "{text:?}");
        assert_eq!(canonical(expected), expected);
    }
}

#[test]
fn words_are_keywords_only_where_they_can_be() {
    assert_eq!(canonical("in in {'in'}"), r#"in in {"in"}"#);
    assert_eq!(canonical("contains contains 'x'"), r#"contains contains "x""#);
    assert_eq!(canonical("not not in {}"), "not not in {}");
    assert_eq!(canonical("has == 'x' && all != 'y'"), r#"(has == "x" && all != "y")"#);
    assert_eq!(canonical("has(has)"), "has(has)");
    assert_eq!(canonical("starts starts with 'x'"), r#"starts starts with "x""#);
}

#[test]
fn what_is_no_selector_is_refused_where_it_goes_wrong() {
    for (text, column, expected) in [
        ("a", 2, "expected an operator"),
        ("a = 'b'", 3, "expected an operator"),
        ("a === 'b'", 5, "expected a value in quotes"),
        ("a == b", 6, "found \"b\""),
        ("'a' == 'b'", 1, "expected a label"),
        ("a == 'b", 6, "closing '"),
        ("a inf {'b'}", 3, "found \"inf\""),
        ("a starts withs 'b'", 3, "expected an operator"),
        ("a not {'b'}", 3, "expected an operator"),
        ("a in 'b'", 6, "expected \"{\""),
        ("a in {,}", 7, "a value in quotes or \"}\""),
        ("a in {'b' 'c'}", 11, "\",\" or \"}\""),
        ("a in {'b'", 10, "found the end"),
        ("has (a)", 5, "expected an operator"),
        ("has()", 5, "expected a label"),
        ("has('a')", 5, "expected a label"),
        ("has(a", 6, "expected \")\""),
        ("all(a)", 5, "expected \")\""),
        ("has(a) & has(b)", 8, "\"&&\", \"||\" or the end"),
        ("has(a) | has(b)", 8, "\"&&\", \"||\" or the end"),
        ("has(a) && ", 11, "found the end"),
        ("&& has(a)", 1, "expected a label"),
        ("has(a) has(b)", 8, "or the end, found \"has\""),
        ("has(a))", 7, "or the end, found \")\""),
        ("(has(a)", 8, "for the \"(\" in column 1"),
        ("has(ab) && (has(a)", 19, "for the \"(\" in column 12"),
        ("(has(a) has(b)", 9, "\"||\" or \")\""),
        ("()", 2, "expected a label"),
        ("!", 2, "found the end"),
        ("has(a)\n&& has(b)", 7, "or the end"),
        ("ä == 'b'", 1, "expected a label"),
        ("a == 'ä' && ö", 13, "expected a label"),
    ] {
        let (found_column, message) = refusal(text);
        assert_eq!(found_column, column, "{text:?}: {message}");
        assert!(message.contains(expected), "{text:?}: {message}");
    }
}

#[test]
fn a_label_may_have_512_characters() {
    let label = "l".repeat(512);
    assert_eq!(canonical(&format!("has({label})")), format!("has({label})"));
    assert_eq!(refusal(&format!("has(a) && x{label} == ''")).0, 11);
    assert_eq!(refusal(&format!("has(x{label})")).0, 5);
}

#[test]
fn no_depth_exhausts_the_stack() {
    let nested = |depth| format!("{}has(a){}", "(".repeat(depth), ")".repeat(depth));
    assert_eq!(canonical(&nested(512)), "has(a)");
    assert_eq!(refusal(&nested(513)).0, 513);
    assert_eq!(refusal(&"(".repeat(3_000_000)).0, 513);
    assert_eq!(refusal(&"!".repeat(3_000_001)).0, 3_000_002);
    assert_eq!(canonical(&format!("{}has(a)", "!".repeat(3_000_000))), "has(a)");
    assert_eq!(refusal(&"!(".repeat(1_000_000)).0, 1026);
    let deep = format!("{}has(a){}", "!(has(b) && ".repeat(512), ")".repeat(512));
    let selector = Selector::parse(&deep).unwrap();
    assert_eq!(selector.to_string().parse().as_ref(), Ok(&selector));
    assert!(selector.matches(&labels("b=1")) != selector.matches(&labels("b=1,a=1")));
}

#[test]
fn text_operators_compare_parts_of_the_value() {
    let value = labels("a=frontend");
    for (text, expected) in [
        ("a contains 'onte'", true),
        ("a contains ''", true),
        ("a contains 'x'", false),
        ("a starts with 'front'", true),
        ("a starts with 'end'", false),
        ("a ends with 'end'", true),
        ("a ends with 'front'", false),
        ("b contains ''", false),
        ("b starts with ''", false),
        ("b ends with ''", false),
        ("!b ends with ''", true),
        ("global()", true),
        ("A == 'frontend'", false),
    ] {
        assert_eq!(Selector::parse(text).unwrap().matches(&value), expected, "{text}");
    }
}

#[test]
fn a_prefix_goes_before_every_label() {
    let text = "a == '1' && (b != '1' || c in {'1'}) && !d not in {} && has(e) \
                && f contains '1' && g starts with '1' && h ends with '1' && all()";
    assert_eq!(
        Selector::parse(text).unwrap().prefixed("p.").to_string(),
        r#"(p.a == "1" && (p.b != "1" || p.c in {"1"}) && !p.d not in {} && has(p.e) && p.f contains "1" && p.g starts with "1" && p.h ends with "1" && all())"#
    );
}

#[test]
fn a_replacement_reaches_every_depth_and_leaves_no_double_negation() {
    let selector = Selector::parse("has(a) && (all() || !(all() && global())) && !all()").unwrap();
    let replaced = selector.replacing(&Selector::All, &Selector::has("n"));
    assert_eq!(replaced.to_string(), "(has(a) && (has(n) || !(has(n) && global())) && !has(n))");
    let not_here = Selector::has("n").negate();
    let replaced = Selector::parse("!global()").unwrap().replacing(&Selector::Global, &not_here);
    assert_eq!(replaced, Selector::has("n"));
}

/// Selectors as the grammar gives them: groups of two and more, no `!` of a `!`.
fn any_selector() -> impl Strategy<Value = Selector> {
    let key = || prop::sample::select(vec!["a", "b", "in", "has", "x/y.z-_"]).prop_map(str::to_owned);
    let value =
        || prop::sample::select(vec!["", "1", "2", "it's", "say \"x\"", "ä\n"]).prop_map(str::to_owned);
    let values = move || prop::collection::btree_set(value(), 0..3);
    let leaf = prop_oneof![
        Just(Selector::All),
        Just(Selector::Global),
        key().prop_map(Selector::Has),
        (key(), value()).prop_map(|(k, v)| Selector::Equal(k, v)),
        (key(), value()).prop_map(|(k, v)| Selector::NotEqual(k, v)),
        (key(), value()).prop_map(|(k, v)| Selector::Contains(k, v)),
        (key(), value()).prop_map(|(k, v)| Selector::StartsWith(k, v)),
        (key(), value()).prop_map(|(k, v)| Selector::EndsWith(k, v)),
        (key(), values()).prop_map(|(k, v)| Selector::In(k, v)),
        (key(), values()).prop_map(|(k, v)| Selector::NotIn(k, v)),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        let some = || prop::collection::vec(inner.clone(), 2..4);
        prop_oneof![
            some().prop_map(Selector::And),
            some().prop_map(Selector::Or),
            inner.clone().prop_map(Selector::negate),
        ]
    })
}

proptest! {
    #[test]
    fn reading_the_text_of_a_selector_gives_it_back(selector in any_selector()) {
        let text = selector.to_string();
        prop_assert_eq!(Selector::parse(&text), Ok(selector), "{}", text);
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in "[ab ()!&|='\"{},\\tä]{0,40}|(has|all|in|not|with|starts|[(){}!'\", ]){0,20}") {
        if let Ok(selector) = Selector::parse(&text) {
            prop_assert_eq!(Selector::parse(&selector.to_string()), Ok(selector));
        }
    }
}
