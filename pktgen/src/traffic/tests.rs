use super::*;
use crate::frame::tests::HOP;
use crate::malformed::Malformed;
use crate::stream::tests::stream;
use std::collections::HashMap;

fn dealt(traffic: &Traffic) -> HashMap<u32, usize> {
    let mut dealt = HashMap::new();
    for part in &traffic.parts {
        for pick in &part.deck {
            *dealt.entry(part.flows[pick.flow as usize].id).or_default() += 1;
        }
    }
    dealt
}

#[test]
fn uniform_flows_have_equal_turns_and_every_size_on_any_number_of_cores() {
    for cores in [1, 3, 7] {
        let traffic = Traffic::new(&[stream(20, "64x3,1400x1")], HOP, cores).unwrap();
        assert_eq!((traffic.parts.len(), traffic.marked_flows, traffic.longest), (cores, 20, 1400));
        let dealt = dealt(&traffic);
        assert_eq!((dealt.len(), dealt.values().max(), dealt.values().min()), (20, Some(&4), Some(&4)));
        for part in &traffic.parts {
            for at in 0..part.flows.len() as u32 {
                let lengths = part.deck.iter().filter(|pick| pick.flow == at).map(|pick| pick.length);
                assert_eq!(lengths.filter(|length| *length == 1400).count(), 1, "flow {at}");
            }
        }
    }
}

#[test]
fn zipfs_first_flow_has_twice_the_turns_of_the_second_and_ten_times_those_of_the_tenth() {
    let zipf = Stream { distribution: Distribution::Zipf(1.0), ..stream(1000, "64") };
    let dealt = dealt(&Traffic::new(&[zipf], HOP, 1).unwrap());
    let of = |flow| dealt[&flow] as f64;
    assert!((1.98..2.02).contains(&(of(0) / of(1))), "{} and {}", of(0), of(1));
    assert!((9.8..10.2).contains(&(of(0) / of(9))), "{} and {}", of(0), of(9));
}

#[test]
fn streams_have_turns_by_their_shares_whatever_their_flows() {
    let few = Stream { share: 3.0, ..stream(2, "64") };
    let malformed = Stream { packets: Packets::Malformed(Malformed::all(false)), ..stream(1, "64") };
    let many = Stream { share: 6.0, ..stream(5000, "128") };
    let traffic = Traffic::new(&[few, malformed, many], HOP, 2).unwrap();
    let dealt = dealt(&traffic);
    let sum = |ids: std::ops::Range<u32>| ids.map(|id| dealt.get(&id).copied().unwrap_or(0)).sum::<usize>();
    let (few, many, bad) = (sum(0..2), sum(2..5002), dealt[&UNMARKED]);
    assert!(bad.abs_diff(few / 3) <= 1 && many.abs_diff(2 * few) <= 2, "{few} {bad} {many}");
    assert_eq!(traffic.marked_flows, 5002);
}

#[test]
fn churn_renews_as_many_flows_as_are_due_and_none_of_them_twice() {
    let traffic = Traffic::new(&[Stream { churn: 100.0, ..stream(10, "64") }], HOP, 2).unwrap();
    let mut seen: Vec<_> = Vec::new();
    for part in &traffic.parts {
        let (mut churn, mut flows) = (part.churn(), part.flows.clone());
        seen.extend(flows.iter().map(|flow| (flow.source_port, flow.destination_port)));
        for tick in 0..=100 {
            churn.renew(Duration::from_millis(tick * 10), &mut flows, |_, flow| {
                seen.push((flow.source_port, flow.destination_port));
            });
        }
        assert!(flows.iter().zip(&part.flows).all(|(new, old)| new.id == old.id));
    }
    assert_eq!(seen.len(), 110);
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 110);
}
