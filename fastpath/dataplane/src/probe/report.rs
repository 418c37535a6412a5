//! What was found, as a table for people and as JSON.

use std::fmt::{self, Display, Write as _};

use super::advice::Choice;
use super::{Answer, Interface, Tried};

/// An interface with what follows from it.
#[derive(Debug)]
pub struct Report {
    /// What the kernel says.
    pub interface: Interface,
    /// What was tried.
    pub tried: Option<Tried>,
    /// What we would use.
    pub advice: Vec<Choice>,
}

const LABEL: usize = 16;

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { interface: i, tried, advice } = self;
        let state = match (i.up, i.carrier) {
            (false, _) => "down",
            (true, false) => "up, no carrier",
            (true, true) => "up",
        };
        writeln!(f, "{}: index {}, {state}, MTU {}", i.name, i.index, i.mtu)?;
        let mut line = |label: &str, value: &str| writeln!(f, "  {label:LABEL$}{value}");
        line("driver", &driver(i))?;
        line(
            "queues",
            &say(&i.channels, |c| {
                format!("{} receive (of {}), {} send", c.receiving(), c.receiving_max(), c.tx + c.combined)
            }),
        )?;
        line(
            "rings",
            &say(&i.rings, |r| {
                format!("{} receive (of {}), {} send (of {})", r.rx, r.rx_max, r.tx, r.tx_max)
            }),
        )?;
        line("RSS", &say(&i.rss, rss))?;
        line(
            "offloads",
            &say(&i.features, |features| {
                let known = OFFLOADS.iter().filter(|name| features.active.contains(**name));
                list(known.copied())
            }),
        )?;
        line("XDP", &say(&i.xdp, |xdp| list(xdp.names()[0].iter().copied())))?;
        line("XDP asks", &say(&i.xdp, |xdp| list(xdp.names()[1].iter().copied())))?;
        line("zero-copy sends", &say(&i.xdp, |xdp| list(xdp.names()[2].iter().copied())))?;
        let attached = i.attached.map_or("none".into(), |a| format!("number {}, {}", a.program, a.mode));
        line("program now", &attached)?;
        if let Some(tried) = tried {
            let done =
                |answer: &Answer<()>| answer.clone().map_or_else(|why| why, |()| "it can be bound".into());
            line("tried program", &tried.program.as_ref().map_or_else(Clone::clone, ToString::to_string))?;
            line("tried zero-copy", &done(&tried.zero_copy))?;
            line("tried copy", &done(&tried.copy))?;
        }
        writeln!(f, "  as an uplink, we would use")?;
        for Choice { what, choice, why, warns } in advice {
            let mark = if *warns { "!" } else { " " };
            writeln!(f, "  {mark} {what:width$}{choice}: {why}", width = LABEL - 2)?;
        }
        Ok(())
    }
}

/// Offloads that make a difference here.
const OFFLOADS: [&str; 11] = [
    "rx-checksum",
    "tx-checksum-ipv4",
    "tx-checksum-ip-generic",
    "tx-checksum-ipv6",
    "tx-tcp-segmentation",
    "tx-udp_tnl-segmentation",
    "rx-gro",
    "rx-gro-hw",
    "rx-lro",
    "rx-vlan-hw-parse",
    "rx-hashing",
];

fn driver(interface: &Interface) -> String {
    let place = &interface.place;
    let mut text = interface.driver().unwrap_or("not known").to_owned();
    if let (Some(bus), Some(device)) = (&place.bus, &place.device) {
        let _ = write!(text, ", {bus} {device}");
    }
    match place.numa_node {
        Some(node) => text + &format!(", NUMA node {node}"),
        None => text,
    }
}

fn rss(rss: &super::ethtool::Rss) -> String {
    let mut text = rss.function.unwrap_or("no hash function that is known").to_owned();
    let places: u32 = rss.table.values().sum();
    if places > 0 {
        let _ = write!(text, ", a table of {places} that leads to {} queues", rss.table.len());
    }
    for (flow, fields) in &rss.fields {
        let _ = write!(text, "; {flow}: {}", list(fields.iter().copied()));
    }
    text
}

fn say<T>(answer: &Answer<T>, text: impl FnOnce(&T) -> String) -> String {
    answer.as_ref().map_or_else(|why| format!("({why})"), text)
}

fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    if names.is_empty() { "nothing".into() } else { names.join(", ") }
}

/// The reports as a JSON array.
#[must_use]
pub fn json(reports: &[Report]) -> String {
    Json::List(reports.iter().map(Report::to_json).collect()).to_string()
}

impl Report {
    fn to_json(&self) -> Json {
        let Report { interface: i, tried, advice } = self;
        let names = |names: &[&str]| Json::List(names.iter().map(|name| Json::text(name)).collect());
        let strings = |names: &std::collections::BTreeSet<String>| {
            Json::List(names.iter().map(|name| Json::text(name)).collect())
        };
        let optional = |text: Option<&str>| text.map_or(Json::Null, Json::text);
        let number = |n: u32| Json::Number(n.into());
        let done = |answer: &Answer<()>| Json::of(answer, |()| Json::text("ok"));
        Json::Object(vec![
            ("name", Json::text(&i.name)),
            ("index", number(i.index)),
            ("up", Json::Bool(i.up)),
            ("carrier", Json::Bool(i.carrier)),
            ("mtu", number(i.mtu)),
            ("driver", optional(i.driver())),
            ("bus", optional(i.place.bus.as_deref())),
            ("device", optional(i.place.device.as_deref())),
            ("numa_node", i.place.numa_node.map_or(Json::Null, number)),
            (
                "channels",
                Json::of(&i.channels, |c| {
                    Json::Object(vec![
                        ("rx", number(c.rx)),
                        ("tx", number(c.tx)),
                        ("combined", number(c.combined)),
                        ("rx_max", number(c.rx_max)),
                        ("tx_max", number(c.tx_max)),
                        ("combined_max", number(c.combined_max)),
                    ])
                }),
            ),
            (
                "rings",
                Json::of(&i.rings, |r| {
                    Json::Object(vec![
                        ("rx", number(r.rx)),
                        ("tx", number(r.tx)),
                        ("rx_max", number(r.rx_max)),
                        ("tx_max", number(r.tx_max)),
                    ])
                }),
            ),
            (
                "features",
                Json::of(&i.features, |features| {
                    Json::Object(vec![
                        ("active", strings(&features.active)),
                        ("hardware", strings(&features.hardware)),
                        ("fixed", strings(&features.fixed)),
                    ])
                }),
            ),
            (
                "rss",
                Json::of(&i.rss, |rss| {
                    let queue = |(queue, places): (&u32, &u32)| {
                        Json::Object(vec![("queue", number(*queue)), ("places", number(*places))])
                    };
                    let hashed = |(flow, fields): (&&'static str, &Vec<&'static str>)| (*flow, names(fields));
                    Json::Object(vec![
                        ("function", optional(rss.function)),
                        ("key_bytes", Json::Number(rss.key_len as u64)),
                        ("table", Json::List(rss.table.iter().map(queue).collect())),
                        ("fields", Json::Object(rss.fields.iter().map(hashed).collect())),
                    ])
                }),
            ),
            (
                "xdp",
                Json::of(&i.xdp, |xdp| {
                    let [actions, rx, tx] = xdp.names();
                    Json::Object(vec![
                        ("features", names(&actions)),
                        ("zc_max_segs", Json::Number(xdp.zero_copy_segments)),
                        ("rx_metadata", names(&rx)),
                        ("tx_metadata", names(&tx)),
                    ])
                }),
            ),
            (
                "attached",
                i.attached.map_or(Json::Null, |a| {
                    Json::Object(vec![("mode", Json::text(a.mode)), ("program", number(a.program))])
                }),
            ),
            (
                "tried",
                tried.as_ref().map_or(Json::Null, |tried| {
                    Json::Object(vec![
                        ("program", Json::of(&tried.program, |mode| Json::text(&mode.to_string()))),
                        ("zero_copy", done(&tried.zero_copy)),
                        ("copy", done(&tried.copy)),
                    ])
                }),
            ),
            ("advice", Json::List(advice.iter().map(advice_json).collect())),
        ])
    }
}

fn advice_json(choice: &Choice) -> Json {
    Json::Object(vec![
        ("what", Json::text(choice.what)),
        ("choice", Json::text(&choice.choice)),
        ("why", Json::text(&choice.why)),
        ("warns", Json::Bool(choice.warns)),
    ])
}

/// A JSON value (RFC 8259): the fastpath has no use for a library of it otherwise.
enum Json {
    Null,
    Bool(bool),
    Number(u64),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(&'static str, Json)>),
}

impl Json {
    fn text(text: &str) -> Self {
        Json::Text(text.into())
    }

    /// An answer; or an object that says why there is none.
    fn of<T>(answer: &Answer<T>, json: impl FnOnce(&T) -> Json) -> Self {
        match answer {
            Ok(value) => json(value),
            Err(why) => Json::Object(vec![("unknown", Json::text(why))]),
        }
    }
}

impl Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Json::Null => write!(f, "null"),
            Json::Bool(value) => write!(f, "{value}"),
            Json::Number(value) => write!(f, "{value}"),
            Json::Text(text) => quote(f, text),
            Json::List(items) => {
                write!(f, "[")?;
                for (at, item) in items.iter().enumerate() {
                    write!(f, "{}{item}", if at > 0 { ", " } else { "" })?;
                }
                write!(f, "]")
            }
            Json::Object(fields) => {
                write!(f, "{{")?;
                for (at, (name, value)) in fields.iter().enumerate() {
                    write!(f, "{}\"{name}\": {value}", if at > 0 { ", " } else { "" })?;
                }
                write!(f, "}}")
            }
        }
    }
}

fn quote(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_char('"')?;
    for character in text.chars() {
        match character {
            '"' | '\\' => write!(f, "\\{character}")?,
            c if c < ' ' => write!(f, "\\u{:04x}", u32::from(c))?,
            c => f.write_char(c)?,
        }
    }
    f.write_char('"')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_quoted_as_json_wants_it() {
        let value = Json::Object(vec![
            ("a", Json::text("say \"no\"\\\n")),
            ("b", Json::List(vec![Json::Null, Json::Bool(true), Json::Number(3)])),
        ]);
        assert_eq!(value.to_string(), r#"{"a": "say \"no\"\\\u000a", "b": [null, true, 3]}"#);
    }
}
