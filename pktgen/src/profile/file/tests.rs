use super::*;

fn defaults() -> Defaults {
    Defaults { source: [10, 0, 0, 1].into(), destination: [10, 0, 0, 2].into(), flags: Flagged::default() }
}

fn error(text: &str) -> String {
    format!("{:#}", File::parse(text).map(|_| ()).unwrap_err())
}

#[test]
fn an_empty_stream_is_udp_of_the_smallest_frames() {
    let file = File::parse("streams: [{}]\n").unwrap();
    let stream = file.streams[0].resolve(0, &defaults()).unwrap();
    assert_eq!((stream.packets, stream.flows, stream.sizes.largest()), (Packets::Udp, 1, 64));
    assert_eq!(stream.destination.port, 9000);
}

#[test]
fn fields_mean_what_they_say() {
    let text = "
rate: 1.5M
duration: 3s
streams:
  - {name: a, share: 3, packets: tcp, flags: 'syn, ack', flows: 100000, distribution: zipf 1.1, size: imix}
  - packets: malformed
    kinds: [ip-checksum, land]
  - {size: 1400, churn: 12.5, source: {address: 10.1.0.1, addresses: 4, port: 5, ports: 10},
     tunnel: {kind: vxlan, vni: 7, source: 192.0.2.1, destination: 192.0.2.2}}
";
    let file = File::parse(text).unwrap();
    assert_eq!(
        (file.rate, file.duration),
        (Some(Rate::PerSecond(1.5e6)), Some(Time(Duration::from_secs(3))))
    );
    let streams: Vec<_> = file
        .streams
        .iter()
        .enumerate()
        .map(|(at, stream)| stream.resolve(at, &defaults()).unwrap())
        .collect();
    assert_eq!(streams[0].packets, Packets::Tcp(Flags::SYN | Flags::ACK));
    assert_eq!((streams[0].distribution, streams[0].destination.ports), (Distribution::Zipf(1.1), 2));
    assert_eq!(streams[1].packets, Packets::Malformed(vec![Malformed::IpChecksum, Malformed::Land]));
    assert_eq!((streams[2].combinations(), streams[2].churn), (40, 12.5));
    assert!(matches!(
        streams[2].tunnel,
        Some(Tunnel { kind: TunnelKind::Vxlan { vni: 7, port: 4789, .. }, .. })
    ));
}

#[test]
fn flags_come_before_the_file() {
    let file = File::parse("streams: [{flows: 5, size: 1400}]").unwrap();
    let flags =
        Flagged { flows: Some(9), sizes: "64".parse().ok(), source_port: Some(7), destination_port: Some(8) };
    let stream = file.streams[0].resolve(0, &Defaults { flags, ..defaults() }).unwrap();
    assert_eq!(
        (stream.flows, stream.sizes.largest(), stream.source.port, stream.destination.port),
        (9, 64, 7, 8)
    );
}

#[test]
fn what_is_wrong_is_named_with_its_line() {
    assert!(
        error("rate: 1M\nspeed: 3\n").starts_with("line 2: unknown field"),
        "{}",
        error("rate: 1M\nspeed: 3\n")
    );
    assert!(error("streams:\n  - size: 64\n    flow: 3\n").contains("line 3"));
    assert!(error("streams:\n  - size: 10\n").contains("line 2"), "{}", error("streams:\n  - size: 10\n"));
    assert!(error("rate: fast\n").contains("packets a second"));
    for bad in [
        "streams: [{flows: 0}]",
        "streams: [{flows: 2000000}]",
        "streams: [{share: -1}]",
        "streams: [{share: .nan}]",
        "streams: [{flags: syn}]",
        "streams: [{kinds: [land]}]",
        "streams: [{packets: malformed, kinds: [nonsense]}]",
        "streams: [{source: {port: 65000, ports: 1000}}]",
        "streams: [{distribution: zipf}]",
        "streams: [{}]\nconnections: {perSecond: 1}",
        "connections: {perSecond: 0}",
        "[1, 2]",
        "rate: [1]",
    ] {
        assert!(File::parse(bad).is_err(), "{bad}");
    }
    for bad in [
        "streams: [{flows: 100, source: {ports: 9}, destination: {ports: 9}}]",
        "streams: [{source: {address: '::1'}}]",
        "streams: [{tunnel: {kind: ipip, vni: 7}}]",
    ] {
        let file = File::parse(bad).unwrap();
        assert!(file.streams[0].resolve(0, &defaults()).is_err(), "{bad}");
    }
}

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic(
        parts in proptest::collection::vec(proptest::sample::select(vec![
            "streams:", "\n  - ", "\n", ": ", "{", "}", "[", "]", ", ", "flows", "size", "imix", "64x1", "-1", "1e400", "18446744073709551616",
            "tunnel", "kind: vxlan", "vni", "churn", "packets", "tcp", "syn", "source", "address", "::1", "10.0.0.1", "ports", "65536", "0",
            "distribution", "zipf 1", "zipf", "zipf NaN", "share", ".inf", "connections", "perSecond", "rate", "&a", "*a", "'", "\"", "é", "from", "to",
        ]), 0..40),
    ) {
        if let Ok(file) = File::parse(&parts.concat()) {
            for (at, stream) in file.streams.iter().enumerate() {
                // Right or wrong, it is an answer.
                let _ = stream.resolve(at, &defaults());
            }
        }
    }
}

#[test]
fn numbers_of_ports_that_cannot_be_are_refused_however_large() {
    let text = "streams: [{source: {port: 1024, ports: 4294967295}}]";
    assert!(File::parse(text).unwrap_err().to_string().contains("stream 1"));
}
