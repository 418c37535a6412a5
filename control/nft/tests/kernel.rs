//! Rulesets in real kernels: each test in a network namespace of its own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test ends where something is amiss"
)]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;

use caracal_nft::{
    Base, Chain, Family, Field, FieldType, Hook, Match, Nft, Rule, Ruleset, Set, Side, StateMask, Statement,
    Transaction, Verdict,
};

const TABLE: &str = "caracal";

/// Runs `test` on a thread in a network namespace of its own, which goes with the thread.
fn in_new_netns(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
            .expect("this test needs root (CAP_SYS_ADMIN and CAP_NET_ADMIN), to make network namespaces");
        assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn host(number: u32) -> (IpAddr, u8) {
    (Ipv4Addr::from_bits(0x0a00_0000 + 2 * number).into(), 32)
}

fn chain(hook: Hook, priority: i32, rules: Vec<Rule>) -> Chain {
    Chain { base: Some(Base { hook, priority }), rules }
}

/// Everything that a ruleset can hold.
fn everything() -> Ruleset {
    let mut ruleset = Ruleset::new(TABLE);
    let v6 = |text: &str, length| (text.parse().unwrap(), length);
    ruleset.sets = BTreeMap::from([
        ("all4".to_owned(), Set::of_prefixes(Family::V4, [("0.0.0.0".parse().unwrap(), 0)])),
        ("hosts4".to_owned(), Set::of_prefixes(Family::V4, (0..100).map(host))),
        (
            "nets6".to_owned(),
            Set::of_prefixes(Family::V6, [v6("2001:db8::", 32), v6("fe80::", 10), v6("ff00::", 8)]),
        ),
        ("empty".to_owned(), Set::of_prefixes(Family::V6, [])),
        ("ports".to_owned(), Set::of_ranges(FieldType::Port, [(0, 79), (443, 443), (60_000, 65_535)])),
        ("protocols".to_owned(), Set::of_ranges(FieldType::Protocol, [(6, 6), (17, 17), (132, 132)])),
        (
            "named4".to_owned(),
            Set::of_ports_at(
                Family::V4,
                [
                    (host(1), 6, (80, 80)),
                    (host(1), 6, (0, 65_535)),
                    (host(2), 17, (53, 53)),
                    (("10.9.0.0".parse().unwrap(), 16), 6, (1, 9)),
                ],
            ),
        ),
        ("named6".to_owned(), Set::of_ports_at(Family::V6, [(v6("2001:db8::1", 128), 6, (443, 443))])),
    ]);
    let in_set =
        |fields: &[Field], set: &str, is| Match::InSet { fields: fields.to_vec(), set: set.into(), is };
    let source = Side::Source;
    let conditions = [
        Match::InputInterface("eth0".into()),
        Match::Family(Family::V4),
        Match::Protocol { protocol: 6, is: true },
        Match::Protocol { protocol: 17, is: false },
        Match::Address { side: source, prefix: "10.1.2.3".parse().unwrap(), length: 12 },
        Match::Address { side: Side::Destination, prefix: "10.1.2.3".parse().unwrap(), length: 0 },
        Match::Port { side: source, first: 1, last: 1, is: false },
        Match::Port { side: Side::Destination, first: 1, last: 9, is: true },
        Match::Icmp { kind: 8, code: None, is: true },
        Match::Icmp { kind: 8, code: Some(0), is: false },
        Match::LocalDestination,
        Match::Marked(0x1_0000),
        Match::State(StateMask::INVALID),
        Match::State(StateMask::ESTABLISHED_OR_RELATED),
        in_set(&[Field::Address(source, Family::V4)], "all4", true),
        in_set(&[Field::Address(source, Family::V4)], "hosts4", false),
        in_set(&[Field::Port(source)], "ports", true),
        in_set(&[Field::Protocol], "protocols", true),
        in_set(&[Field::Address(source, Family::V4), Field::Protocol, Field::Port(source)], "named4", true),
    ];
    let v6_conditions = [
        Match::Family(Family::V6),
        Match::HopLimit(255),
        Match::Address { side: source, prefix: "2001:db8::".parse().unwrap(), length: 33 },
        in_set(&[Field::Address(Side::Destination, Family::V6)], "nets6", true),
        in_set(&[Field::Address(source, Family::V6)], "empty", false),
        in_set(&[Field::Address(source, Family::V6), Field::Protocol, Field::Port(source)], "named6", false),
    ];
    let when =
        |condition: Match, then: Statement| Rule::new(vec![condition.into(), Statement::Counter, then]);
    let mut rules: Vec<Rule> = conditions.into_iter().map(|c| when(c, Verdict::Return.into())).collect();
    let all_of_v6 = v6_conditions.into_iter().map(Statement::from).chain([Verdict::Drop.into()]).collect();
    rules.push(
        Rule::new(all_of_v6).with_comment("tier default · GlobalNetworkPolicy deny-all · ingress rule 0"),
    );
    rules.push(Rule::new(vec![
        Statement::Log("calico-packet ".into()),
        Verdict::Jump("to-host/0".into()).into(),
    ]));
    rules.push(Rule::new(vec![Statement::Unmark(0x1_0000), Verdict::Accept.into()]));
    let raw = vec![Rule::new(vec![Statement::NoTrack, Statement::Mark(0x1_0000), Verdict::Accept.into()])];
    let out = when(Match::OutputInterface("eth0".into()), Verdict::Goto("to-host/0".into()).into());
    ruleset.chains = BTreeMap::from([
        ("input".to_owned(), chain(Hook::Input, 0, rules)),
        ("raw".to_owned(), chain(Hook::Prerouting, -300, raw)),
        ("output".to_owned(), chain(Hook::Output, 0, vec![out])),
        ("forward".to_owned(), chain(Hook::Forward, 1, vec![])),
        ("to-host/0".to_owned(), Chain { base: None, rules: vec![Rule::new(vec![Verdict::Accept.into()])] }),
    ]);
    ruleset
}

fn commit(nft: &mut Nft, transaction: &Transaction) {
    nft.commit(transaction).unwrap_or_else(|error| panic!("{error}"));
}

fn assert_holds(nft: &mut Nft, ruleset: &Ruleset) {
    assert_eq!(nft.list(TABLE).unwrap().difference(ruleset), None);
}

#[test]
fn the_kernel_gives_back_everything_as_it_was_put() {
    in_new_netns(|| {
        let mut nft = Nft::open().unwrap();
        let ruleset = everything();
        commit(&mut nft, &Transaction::replace(&ruleset));
        assert_holds(&mut nft, &ruleset);
        // Again, over what there is.
        commit(&mut nft, &Transaction::replace(&ruleset));
        assert_holds(&mut nft, &ruleset);
        commit(&mut nft, &Transaction::remove(TABLE));
        commit(&mut nft, &Transaction::remove(TABLE));
        assert!(!nft.list(TABLE).unwrap().exists());
    });
}

#[test]
fn whatever_somebody_else_changes_is_seen() {
    in_new_netns(|| {
        let mut nft = Nft::open().unwrap();
        let ruleset = everything();
        let mut changed = Vec::new();
        let mut others: Vec<Ruleset> = Vec::new();
        let mut other = |change: fn(&mut Ruleset)| {
            let mut copy = ruleset.clone();
            change(&mut copy);
            others.push(copy);
        };
        other(|r| drop(r.chains.get_mut("input").unwrap().rules.pop()));
        other(|r| r.chains.get_mut("input").unwrap().rules.swap(0, 1));
        other(|r| drop(r.chains.get_mut("raw").unwrap().rules[0].statements.remove(0)));
        other(|r| r.chains.get_mut("forward").unwrap().base.as_mut().unwrap().priority = 2);
        other(|r| r.chains.get_mut("input").unwrap().rules[0].comment = "mine".into());
        other(|r| drop(r.chains.insert("more".into(), Chain::default())));
        other(|r| drop(r.sets.insert("more".into(), Set::of_prefixes(Family::V4, []))));
        other(|r| drop(r.sets.insert("hosts4".into(), Set::of_prefixes(Family::V4, (0..99).map(host)))));
        for other in &others {
            commit(&mut nft, &Transaction::replace(other));
            assert_holds(&mut nft, other);
            changed.push(nft.list(TABLE).unwrap().difference(&ruleset).expect("a difference"));
        }
        assert_eq!(changed.len(), 8, "{changed:?}");
        let shown = changed.join("; ");
        assert!(
            shown.contains("set hosts4 holds something else")
                && shown.contains("rule 0 of chain raw is another"),
            "{shown}"
        );
    });
}

#[test]
fn elements_come_and_go_without_the_rules() {
    in_new_netns(|| {
        let mut nft = Nft::open().unwrap();
        let mut now = everything();
        commit(&mut nft, &Transaction::replace(&now));
        for step in 0..20u32 {
            let mut next = now.clone();
            let hosts = (0..200).filter(|n| !(n * 7 + step).is_multiple_of(3)).map(host);
            let nets = [
                ("10.0.0.0".parse().unwrap(), 20 + (step % 10) as u8),
                ("255.255.255.0".parse().unwrap(), 24),
            ];
            next.sets.insert("hosts4".into(), Set::of_prefixes(Family::V4, hosts.chain(nets)));
            let named = (0..50).filter(|n| !(n * 5 + step).is_multiple_of(4));
            let named = named.map(|n| (host(n), 6, (n as u16, (n + step) as u16)));
            next.sets.insert("named4".into(), Set::of_ports_at(Family::V4, named));
            assert!(now.is_same_but_for_elements(&next));
            commit(&mut nft, &Transaction::between(&now, &next));
            assert_holds(&mut nft, &next);
            now = next;
        }
    });
}

#[test]
fn a_table_may_be_many_times_larger_than_a_sockets_buffer() {
    in_new_netns(|| {
        let mut nft = Nft::open().unwrap();
        let mut ruleset = everything();
        ruleset.sets.insert("hosts4".into(), Set::of_prefixes(Family::V4, (0..100_000).map(host)));
        let named = (0..5_000).map(|n| (host(n), 6, (n as u16, n as u16)));
        ruleset.sets.insert("named4".into(), Set::of_ports_at(Family::V4, named));
        let rules = (0..10_000u32).map(|number| {
            let port = (number % 65_535) as u16;
            let port = Match::Port { side: Side::Destination, first: port, last: port, is: true };
            Rule::new(vec![
                Match::Protocol { protocol: 6, is: true }.into(),
                port.into(),
                Statement::Counter,
                Verdict::Accept.into(),
            ])
        });
        ruleset.chains.get_mut("to-host/0").unwrap().rules.extend(rules);
        commit(&mut nft, &Transaction::replace(&ruleset));
        assert_holds(&mut nft, &ruleset);
    });
}

#[test]
fn what_the_kernel_refuses_is_named_and_nothing_of_the_batch_is_done() {
    in_new_netns(|| {
        let mut nft = Nft::open().unwrap();
        let good = everything();
        commit(&mut nft, &Transaction::replace(&good));
        let mut bad = good.clone();
        bad.sets.insert("hosts4".into(), Set::of_prefixes(Family::V4, []));
        let nowhere = Rule::new(vec![Verdict::Jump("nowhere".into()).into()]);
        bad.chains.get_mut("output").unwrap().rules.push(nowhere);
        let error = nft.commit(&Transaction::replace(&bad)).unwrap_err().to_string();
        assert!(error.contains("add rule 1 of chain output (jump nowhere)"), "{error}");
        assert_holds(&mut nft, &good);
    });
}

#[test]
fn other_tables_are_left_alone_and_can_be_seen() {
    in_new_netns(|| {
        let mut nft = Nft::open().unwrap();
        let mut theirs = everything();
        theirs.table = "theirs".into();
        commit(&mut nft, &Transaction::replace(&theirs));
        commit(&mut nft, &Transaction::replace(&everything()));
        commit(&mut nft, &Transaction::remove(TABLE));
        assert_eq!(nft.list("theirs").unwrap().difference(&theirs), None);
        let tables: Vec<String> =
            nft.tables().unwrap().into_iter().map(|t| format!("{} {}", t.family, t.name)).collect();
        assert_eq!(tables, ["inet theirs"]);
        assert!(nft.chains().unwrap().iter().any(|(table, chain)| table.name == "theirs" && chain == "raw"));
    });
}
