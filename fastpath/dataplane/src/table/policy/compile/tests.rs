use caracal_plane_api as plane;

use super::super::list::Packed;
use super::super::rules::{self, Binding, Fallback, Owner, RuleList, Tier};
use super::super::sets::SetNames;
use super::super::{RuleId, RuleOwner};
use super::*;

/// The first word of a flat row.
const FLAT: u16 = u16::MAX;

/// Whom a rule takes, and on which TCP port.
struct Allow {
    peers: Option<&'static str>,
    local: Option<&'static str>,
    /// 0: any.
    port: u32,
    /// Ports by the name of this set besides.
    named: Option<&'static str>,
    ip_version: u32,
}

const ALLOW: Allow = Allow { peers: None, local: None, port: 0, named: None, ip_version: 0 };

impl Allow {
    fn rule(&self) -> plane::Rule {
        let ids = |id: Option<&str>| id.into_iter().map(String::from).collect();
        let port = plane::PortRange { first: self.port, last: self.port };
        let source =
            plane::Entity { in_all: ids(self.peers), named_ports: ids(self.named), ..Default::default() };
        let ports = if self.port == 0 { vec![] } else { vec![port] };
        let destination = plane::Entity { in_all: ids(self.local), ports, ..Default::default() };
        plane::Rule {
            action: plane::Action::Allow.into(),
            ip_version: self.ip_version,
            protocol: 6,
            source: Some(source),
            destination: Some(destination),
            ..Default::default()
        }
    }
}

/// A compiler for one denying tier of these rules, and the sets that they name.
fn compiler(allows: &[Allow]) -> (ListCompiler, SetNames) {
    let mut names = SetNames::default();
    let rules: Vec<plane::Rule> = allows.iter().map(Allow::rule).collect();
    let rules = rules::from_plane(&rules, &mut names).unwrap();
    let policy = RuleOwner { kind: "NetworkPolicy".into(), namespace: "a".into(), name: "p".into() };
    let owner = Owner::Policy { tier: "default".into(), policy };
    let policies = vec![Arc::new(RuleList { owner, version: 1, rules })];
    let tiers = vec![Tier { name: "default".into(), default_deny: true, policies }];
    let binding = Binding { tiers, fallback: Fallback::Profiles(vec![]) };
    let mut last = 0;
    let list = List::new(FlowDirection::Ingress, &binding, &mut |_| {
        last += 1;
        RuleId(last)
    });
    (ListCompiler::new(list), names)
}

fn no_logs(_: Packed, _: &[RuleId]) -> Packed {
    panic!("no rule logs")
}

fn content(mut memberships: Vec<Membership>) -> Content {
    memberships.sort_unstable();
    memberships.into()
}

fn ip(address: &str) -> IpAddr {
    address.parse().unwrap()
}

fn row_of(compiler: &mut ListCompiler, chosen: &Chosen, class: ClassId) -> Option<Arc<Row>> {
    let compiled = compiler.compiled(chosen);
    compiled.variant(ip("10.0.0.1")).unwrap().rows.get(class.0 as usize).cloned().flatten()
}

#[test]
fn a_variant_stays_as_long_as_any_endpoint_uses_it_and_then_goes() {
    let (mut by_address, mut names) = compiler(&[Allow { local: Some("s0"), ..ALLOW }]);
    let class = content(vec![Membership::address(names.intern("s0"))]);
    let addresses = [(ip("10.0.0.1"), class), (ip("10.0.0.2"), content(vec![]))];
    let (mut by_family, _) = compiler(&[Allow { ip_version: 4, ..ALLOW }]);
    for (compiler, addresses) in [(&mut by_address, &addresses[..]), (&mut by_family, &[])] {
        let one = compiler.choose(addresses, &mut no_logs);
        let other = compiler.choose(addresses, &mut no_logs);
        assert_eq!(one, other);
        assert_eq!(compiler.variants.len(), 2);
        compiler.release(&one);
        assert_eq!(compiler.variants.len(), 2, "another endpoint uses them");
        compiler.release(&other);
        assert!(compiler.variants.is_empty() && compiler.by_standing.is_empty());
    }
}

#[test]
fn a_class_that_is_gone_has_no_row_and_gets_none_in_later_variants() {
    let (mut compiler, mut names) = compiler(&[Allow { peers: Some("s0"), ..ALLOW }]);
    let class = content(vec![Membership::address(names.intern("s0"))]);
    let chosen = compiler.choose(&[], &mut no_logs);
    compiler.add_class(ClassId(1), &class, &mut no_logs);
    assert!(row_of(&mut compiler, &chosen, ClassId(1)).is_some());
    compiler.remove_class(ClassId(1));
    assert!(row_of(&mut compiler, &chosen, ClassId(1)).is_none());
    compiler.release(&chosen);
    let chosen = compiler.choose(&[], &mut no_logs);
    assert!(row_of(&mut compiler, &chosen, ClassId(1)).is_none());
}

#[test]
fn the_many_rules_for_a_set_are_one_layer_that_all_who_are_in_other_sets_besides_share() {
    let allow = |peers, port| Allow { peers: Some(peers), port, ..ALLOW };
    let (mut compiler, mut names) =
        compiler(&[allow("many", 1), allow("many", 2), allow("many", 3), allow("one", 4), allow("two", 5)]);
    let mut class =
        |sets: &[&str]| content(sets.iter().map(|set| Membership::address(names.intern(set))).collect());
    let classes =
        [class(&["many"]), class(&["many", "one"]), class(&["many", "two"]), class(&["one", "two"])];
    let chosen = compiler.choose(&[], &mut no_logs);
    for (number, class) in classes.iter().enumerate() {
        compiler.add_class(ClassId(number as u32), class, &mut no_logs);
    }
    let mut first_word = |class| row_of(&mut compiler, &chosen, ClassId(class)).unwrap()[0];
    assert_eq!(first_word(0), FLAT, "a layer and nothing else would only cost a detour");
    assert_eq!((first_word(1), first_word(2)), (1, 1));
    assert_eq!(first_word(3), FLAT, "one rule is too few for a layer");
    let layers: Vec<usize> = compiler.variants.values().map(|variant| variant.layers.len()).collect();
    assert_eq!(layers, [1]);
}

#[test]
fn rules_that_another_family_leaves_are_too_few_for_a_layer() {
    let allow = |peers, port, ip_version| Allow { peers: Some(peers), port, ip_version, ..ALLOW };
    let (mut compiler, mut names) =
        compiler(&[allow("many", 1, 6), allow("many", 2, 6), allow("many", 3, 4), allow("one", 4, 0)]);
    let class =
        content(vec![Membership::address(names.intern("many")), Membership::address(names.intern("one"))]);
    let chosen = compiler.choose(&[], &mut no_logs);
    compiler.add_class(ClassId(1), &class, &mut no_logs);
    let compiled = compiler.compiled(&chosen);
    let first_word =
        |address| compiled.variant(ip(address)).unwrap().rows.get(1).unwrap().as_ref().unwrap()[0];
    assert_eq!((first_word("10.0.0.1"), first_word("fd00::1")), (FLAT, 1));
}

#[test]
fn rows_of_classes_that_come_and_go_do_not_pile_up_and_those_in_use_stay_shared() {
    let (mut compiler, mut names) =
        compiler(&[Allow { peers: Some("s0"), ..ALLOW }, Allow { named: Some("http"), ..ALLOW }]);
    let (s0, http) = (names.intern("s0"), names.intern("http"));
    let with_port = |port| content(vec![Membership { set: http, protocol: 6, port }]);
    let in_s0 = content(vec![Membership::address(s0)]);
    let chosen = compiler.choose(&[], &mut no_logs);
    let kept = 100;
    for class in 1..=kept {
        compiler.add_class(ClassId(class), &with_port(class as u16), &mut no_logs);
    }
    compiler.add_class(ClassId(kept + 1), &in_s0, &mut no_logs);
    for port in 1000..3000 {
        compiler.add_class(ClassId(kept + 2), &with_port(port), &mut no_logs);
        compiler.remove_class(ClassId(kept + 2));
    }
    let remembered = compiler.variants.values().map(|variant| variant.by_memberships.len()).max();
    let most = 8 * kept as usize;
    assert!(compiler.rows.len() < most && remembered < Some(most), "{} {remembered:?}", compiler.rows.len());
    compiler.add_class(ClassId(kept + 3), &in_s0, &mut no_logs);
    let rows = [kept + 1, kept + 3].map(|class| row_of(&mut compiler, &chosen, ClassId(class)).unwrap());
    assert!(Arc::ptr_eq(&rows[0], &rows[1]));
}
