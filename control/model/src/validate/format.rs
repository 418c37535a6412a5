//! The formats of names: RFC 1123 names, label keys and values, port names and numbers.

/// An RFC 1123 label: at most 63 of `a-z`, `0-9` and `-`, with no `-` at either end.
pub(super) fn dns_label(text: &str) -> Result<(), String> {
    if text.len() > 63 {
        return Err("must be no more than 63 characters".to_owned());
    }
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if text.is_empty() || !text.bytes().all(inner) || text.starts_with('-') || text.ends_with('-') {
        return Err(
            "must be lower-case letters, digits and '-', beginning and ending with a letter or digit \
                    (an RFC 1123 label)"
                .to_owned(),
        );
    }
    Ok(())
}

/// A service's name (RFC 1035): an RFC 1123 label that begins with a letter.
pub(super) fn service_name(text: &str) -> Result<(), String> {
    dns_label(text)?;
    if text.starts_with(|first: char| first.is_ascii_digit()) {
        return Err("must begin with a letter (an RFC 1035 label)".to_owned());
    }
    Ok(())
}

/// An RFC 1123 subdomain: labels joined by dots, at most 253 characters. (Parts may be longer than 63, as Kubernetes allows.)
pub(super) fn dns_subdomain(text: &str) -> Result<(), String> {
    if text.len() > 253 {
        return Err("must be no more than 253 characters".to_owned());
    }
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let part = |part: &str| {
        !part.is_empty() && part.bytes().all(inner) && !part.starts_with('-') && !part.ends_with('-')
    };
    if !text.split('.').all(part) {
        return Err(
            "must be lower-case letters, digits, '-' and '.', every part beginning and ending with a letter \
                    or digit (an RFC 1123 subdomain)"
                .to_owned(),
        );
    }
    Ok(())
}

/// What can stand between two slashes of a URL: roles are called so.
pub(super) fn path_segment(text: &str) -> Result<(), String> {
    if [".", ".."].contains(&text) {
        return Err(format!("may not be '{text}'"));
    }
    if text.contains(['/', '%']) {
        return Err("may not contain '/' or '%'".to_owned());
    }
    Ok(())
}

/// A label's key: an optional subdomain and `/`, then at most 63 letters, digits, `-`, `_` and `.`.
pub(super) fn label_key(text: &str) -> Result<(), String> {
    let name = match text.split_once('/') {
        None => text,
        Some((prefix, name)) => {
            dns_subdomain(prefix).map_err(|why| format!("the prefix {why}"))?;
            name
        }
    };
    if name.is_empty() || name.len() > 63 || !is_label_text(name) {
        return Err(
            "the name part must be 1 to 63 letters, digits, '-', '_' and '.', beginning and ending with a \
                    letter or digit"
                .to_owned(),
        );
    }
    Ok(())
}

/// A label's value: empty, or at most 63 letters, digits, `-`, `_` and `.`.
pub(super) fn label_value(text: &str) -> Result<(), String> {
    if text.len() > 63 {
        return Err("must be no more than 63 characters".to_owned());
    }
    if !text.is_empty() && !is_label_text(text) {
        return Err("must be empty, or letters, digits, '-', '_' and '.', beginning and ending with a letter or digit"
            .to_owned());
    }
    Ok(())
}

fn is_label_text(text: &str) -> bool {
    let ends = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && ends(text.bytes().next())
        && ends(text.bytes().next_back())
}

/// A port's name (RFC 6335): at most 15 of `a-z`, `0-9` and `-`, with at least one letter, no `-` at either end and no `--`.
pub(super) fn port_name(text: &str) -> Result<(), String> {
    if text.len() > 15 {
        return Err("must be no more than 15 characters".to_owned());
    }
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if text.is_empty() || !text.bytes().all(inner) {
        return Err("must contain only lower-case letters, digits and '-'".to_owned());
    }
    if !text.bytes().any(|b| b.is_ascii_lowercase()) {
        return Err("must contain at least one letter".to_owned());
    }
    if text.contains("--") {
        return Err("must not contain consecutive hyphens".to_owned());
    }
    if text.starts_with('-') || text.ends_with('-') {
        return Err("must not begin or end with a hyphen".to_owned());
    }
    Ok(())
}

/// A port's number.
pub(super) fn port_number(port: i32) -> Result<(), String> {
    if (1..=65535).contains(&port) {
        Ok(())
    } else {
        Err("must be between 1 and 65535, inclusive".to_owned())
    }
}
