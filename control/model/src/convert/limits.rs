//! A pod's annotations → what it may move.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::converted::DroppedRule;
use crate::annotations::{KUBERNETES_EGRESS_BANDWIDTH, KUBERNETES_INGRESS_BANDWIDTH, QOS_PREFIX};
use crate::quantity::quantity;

/// What a pod may move in both directions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PodLimits {
    /// Towards it.
    pub ingress: Limits,
    /// From it.
    pub egress: Limits,
}

/// What a pod may move in one direction. None: as much as it likes, or where it qualifies another, the default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bits a second, on average.
    pub bandwidth: Option<u64>,
    /// Bits at once.
    pub burst: Option<u64>,
    /// Bits a second, never more.
    pub peak_rate: Option<u64>,
    /// Bytes at once, never more.
    pub min_burst: Option<u64>,
    /// Packets a second.
    pub packet_rate: Option<u64>,
    /// Packets at once.
    pub packet_burst: Option<u64>,
    /// Connections at once.
    pub max_connections: Option<u64>,
}

const BANDWIDTH: RangeInclusive<u64> = 1_000..=1_000_000_000_000_000;
const BURST: RangeInclusive<u64> = 1_000..=34_359_738_360;
const PEAK_RATE: RangeInclusive<u64> = 1_010..=1_010_000_000_000_000;
const MIN_BURST: RangeInclusive<u64> = 1_000..=100_000_000;
const PACKET_RATE: RangeInclusive<u64> = 1..=10_000;
const PACKET_BURST: RangeInclusive<u64> = 1..=10_000;
const MAX_CONNECTIONS: RangeInclusive<u64> = 1..=u32::MAX as u64;

/// The limits that a pod's annotations ask for, and what of them cannot be had: a bad value is as good as none.
pub fn pod_limits(annotations: Option<&BTreeMap<String, String>>) -> (PodLimits, Vec<DroppedRule>) {
    let Some(annotations) = annotations else { return Default::default() };
    let mut reader = Reader { annotations, dropped: Vec::new() };
    let ingress = reader.limits("ingress", KUBERNETES_INGRESS_BANDWIDTH);
    let egress = reader.limits("egress", KUBERNETES_EGRESS_BANDWIDTH);
    (PodLimits { ingress, egress }, reader.dropped)
}

struct Reader<'a> {
    annotations: &'a BTreeMap<String, String>,
    dropped: Vec<DroppedRule>,
}

impl Reader<'_> {
    fn limits(&mut self, direction: &str, kubernetes_bandwidth: &str) -> Limits {
        let name = |of: &str| format!("{QOS_PREFIX}{direction}{of}");
        let kubernetes = self.read(kubernetes_bandwidth, BANDWIDTH);
        let bandwidth = self.read(&name("Bandwidth"), BANDWIDTH).or(kubernetes);
        let burst = self.read(&name("Burst"), BURST);
        let burst = self.needs(&name("Burst"), burst, "a bandwidth", bandwidth.is_some());
        let peak_rate = self.read(&name("Peakrate"), PEAK_RATE);
        let is_above = bandwidth.is_some_and(|bandwidth| peak_rate > Some(bandwidth));
        let peak_rate = self.needs(&name("Peakrate"), peak_rate, "a bandwidth that is lower", is_above);
        let min_burst = self.read(&name("Minburst"), MIN_BURST);
        let min_burst = self.needs(&name("Minburst"), min_burst, "a peak rate", peak_rate.is_some());
        let packet_rate = self.read(&name("PacketRate"), PACKET_RATE);
        let packet_burst = self.read(&name("PacketBurst"), PACKET_BURST);
        let packet_burst =
            self.needs(&name("PacketBurst"), packet_burst, "a packet rate", packet_rate.is_some());
        let max_connections = self.read(&name("MaxConnections"), MAX_CONNECTIONS);
        Limits { bandwidth, burst, peak_rate, min_burst, packet_rate, packet_burst, max_connections }
    }

    fn read(&mut self, name: &str, range: RangeInclusive<u64>) -> Option<u64> {
        let text = self.annotations.get(name)?;
        let value = quantity(text).filter(|value| range.contains(value));
        if value.is_none() {
            let (least, most) = range.into_inner();
            let message = format!("{text:?} is no quantity between {least} and {most}");
            self.dropped.push(DroppedRule::new(name, message));
        }
        value
    }

    fn needs(&mut self, name: &str, value: Option<u64>, what: &str, is_there: bool) -> Option<u64> {
        if value.is_some() && !is_there {
            self.dropped.push(DroppedRule::new(name, format!("it needs {what} beside it")));
        }
        value.filter(|_| is_there)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(annotations: &[(&str, &str)]) -> (PodLimits, Vec<String>) {
        let annotations = annotations.iter().map(|(name, value)| {
            let name = if name.contains('/') { (*name).to_owned() } else { format!("{QOS_PREFIX}{name}") };
            (name, (*value).to_owned())
        });
        let (limits, dropped) = pod_limits(Some(&annotations.collect()));
        (limits, dropped.into_iter().map(|dropped| dropped.field.replace(QOS_PREFIX, "")).collect())
    }

    #[test]
    fn every_annotation_is_read_for_its_direction() {
        let (read, dropped) = limits(&[
            ("ingressBandwidth", "10M"),
            ("ingressBurst", "1Mi"),
            ("ingressPeakrate", "20M"),
            ("ingressMinburst", "1500"),
            ("ingressPacketRate", "1k"),
            ("ingressPacketBurst", "20"),
            ("ingressMaxConnections", "3"),
            ("egressBandwidth", "1G"),
            ("egressMaxConnections", "4294967295"),
            ("dscp", "46"),
        ]);
        let ingress = Limits {
            bandwidth: Some(10_000_000),
            burst: Some(1 << 20),
            peak_rate: Some(20_000_000),
            min_burst: Some(1500),
            packet_rate: Some(1000),
            packet_burst: Some(20),
            max_connections: Some(3),
        };
        let egress = Limits {
            bandwidth: Some(1_000_000_000),
            max_connections: Some(u64::from(u32::MAX)),
            ..Limits::default()
        };
        assert_eq!((read, dropped), (PodLimits { ingress, egress }, vec![]));
        assert_eq!(limits(&[]), (PodLimits::default(), vec![]));
        assert_eq!(pod_limits(None), (PodLimits::default(), vec![]));
    }

    #[test]
    fn kubernetes_bandwidth_counts_where_calicos_says_nothing_that_can_be_had() {
        let kubernetes = ("kubernetes.io/ingress-bandwidth", "1M");
        let bandwidth = |annotations: &[(&str, &str)]| limits(annotations).0.ingress.bandwidth;
        assert_eq!(bandwidth(&[kubernetes]), Some(1_000_000));
        assert_eq!(bandwidth(&[kubernetes, ("ingressBandwidth", "2M")]), Some(2_000_000));
        assert_eq!(bandwidth(&[kubernetes, ("ingressBandwidth", "lots")]), Some(1_000_000));
        assert_eq!(limits(&[("kubernetes.io/egress-bandwidth", "5k")]).0.egress.bandwidth, Some(5000));
        let (with_burst, dropped) = limits(&[kubernetes, ("ingressBurst", "2M")]);
        assert_eq!((with_burst.ingress.burst, dropped), (Some(2_000_000), vec![]));
    }

    #[test]
    fn a_value_that_is_bad_or_lacks_what_it_qualifies_is_dropped_alone() {
        for (field, value) in [
            ("ingressBandwidth", "999"),
            ("ingressBandwidth", "1000000000000001"),
            ("ingressBandwidth", "fast"),
            ("ingressBandwidth", ""),
            ("ingressBandwidth", "-1M"),
            ("egressBurst", "34359738361"),
            ("egressBurst", "1M"),
            ("egressPeakrate", "2M"),
            ("egressMinburst", "2000"),
            ("egressPacketRate", "10001"),
            ("egressPacketRate", "0"),
            ("egressPacketBurst", "5"),
            ("egressMaxConnections", "0"),
            ("egressMaxConnections", "4294967296"),
        ] {
            let (read, dropped) = limits(&[(field, value), ("ingressMaxConnections", "7")]);
            assert_eq!(dropped, [field], "{value}");
            assert_eq!(read.egress, Limits::default(), "{field} {value}");
            assert_eq!(read.ingress, Limits { max_connections: Some(7), ..Limits::default() });
        }
        let (read, dropped) =
            limits(&[("ingressBandwidth", "2M"), ("ingressPeakrate", "2M"), ("ingressMinburst", "2k")]);
        assert_eq!((read.ingress.bandwidth, read.ingress.peak_rate), (Some(2_000_000), None));
        assert_eq!(dropped, ["ingressPeakrate", "ingressMinburst"]);
    }
}
