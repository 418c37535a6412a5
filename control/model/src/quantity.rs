//! Kubernetes' quantities: `10`, `1.5k`, `100M`, `4Gi`, `12e6`.

/// The whole number that a quantity stands for, rounded up; None for what is no quantity, or is negative or too large.
pub fn quantity(text: &str) -> Option<u64> {
    let number_len = text.find(|c: char| !matches!(c, '0'..='9' | '.' | '+')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(number_len);
    let number = number.strip_prefix('+').unwrap_or(number);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = format!("{whole}{fraction}");
    if !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    // Leading zeros cost nothing; more digits than these are more than fit anyway.
    let digits = digits.trim_start_matches('0');
    if whole.is_empty() && fraction.is_empty() || digits.len() > 24 || fraction.len() > 18 {
        return None;
    }
    let mantissa: u128 = if digits.is_empty() { 0 } else { digits.parse().ok()? };
    let (multiplier, tens) = suffix_value(suffix)?;
    let tens = tens - i32::try_from(fraction.len()).ok()?;
    let scaled = mantissa.checked_mul(multiplier)?;
    let power = 10u128.checked_pow(tens.unsigned_abs())?;
    let value = if tens < 0 { scaled.div_ceil(power) } else { scaled.checked_mul(power)? };
    u64::try_from(value).ok()
}

/// What a suffix multiplies by: a number, and a power of ten.
fn suffix_value(suffix: &str) -> Option<(u128, i32)> {
    let decimal = |tens| Some((1, tens));
    let binary = |bits: u32| Some((1u128 << bits, 0));
    match suffix {
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?;
            exponent.parse().ok().filter(|tens: &i32| (-18..=18).contains(tens)).and_then(decimal)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quantities_are_whole_numbers_rounded_up() {
        for (text, value) in [
            ("0", 0),
            ("10", 10),
            ("+10", 10),
            ("007", 7),
            ("1.5k", 1500),
            (".5k", 500),
            ("5.", 5),
            ("1.0001", 2),
            ("1m", 1),
            ("1500m", 2),
            ("100M", 100_000_000),
            ("4Gi", 4 << 30),
            ("1P", 1_000_000_000_000_000),
            ("12e6", 12_000_000),
            ("12E-1", 2),
            ("1E", 1_000_000_000_000_000_000),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(quantity(text), Some(value), "{text}");
        }
        for text in [
            "",
            ".",
            "k",
            "-1",
            "1 k",
            "1K",
            "1kk",
            "1.2.3",
            "one",
            "++1",
            "1e",
            "1e99",
            "18446744073709551616",
            "16Ei",
        ] {
            assert_eq!(quantity(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[0-9.+eEkKMGi-]{0,40}") {
            let _ = quantity(&text);
        }
    }
}
