//! The forwarding table: what is found, how fast, and how long a change takes.

use std::error::Error;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::time::Instant;

use caracal_dataplane::table::{Fib, FibEntry, KernelRoute, Prefix, TableBuilder, lpm::Lpm, lpm::LpmBuilder};

use super::{BURST, NOTHING, measure, read, rounds, write_answers};

/// The table as the fastpath makes it, and the same routes in the longest-match table alone, which is what rte_fib is.
struct Table {
    fib: Fib,
    lpm: Lpm,
}

pub fn run(directory: &Path, answers: &Path) -> Result<(), Box<dyn Error>> {
    let routes = routes(&read(directory, "routes")?)?;
    let trace: Vec<IpAddr> =
        read(directory, "trace")?.lines().map(address).collect::<Result<_, Box<dyn Error>>>()?;
    let from = Instant::now();
    let mut builder = LpmBuilder::default();
    for route in &routes {
        builder.insert(route.prefix, route.ifindex);
    }
    let lpm = builder.snapshot();
    let build_s = from.elapsed().as_secs_f64();
    let bytes = lpm.bytes();
    let table = Table { fib: table_of(&routes).build().fib.clone(), lpm };

    let found: Vec<u32> = trace.iter().map(|address| table.lpm.lookup(*address).unwrap_or(NOTHING)).collect();
    let entries = trace.iter().map(|address| table.fib.lookup(*address).map_or(NOTHING, ifindex));
    if !entries.eq(found.iter().copied()) {
        return Err("the forwarding table and its longest-match table differ".into());
    }
    write_answers(answers, &found)?;

    let mut v4 = Vec::new();
    let mut v6 = Vec::new();
    for address in &trace {
        match address {
            IpAddr::V4(address) => v4.push(address.to_bits()),
            IpAddr::V6(address) => v6.push(address.to_bits()),
        }
    }
    let count = trace.len();
    let mut values = [0; BURST];
    rounds(build_s, bytes, || {
        let mut results = Vec::new();
        let mut way = |name: &str, ns| results.push((name.to_owned(), ns));
        if v6.is_empty() {
            way(
                "lookup, batches of 64",
                measure(count, || {
                    for burst in v4.as_chunks::<BURST>().0 {
                        table.lpm.lookup_batch_v4(burst, &mut values);
                        black_box(&values);
                    }
                }),
            );
            way(
                "lookup, one by one",
                measure(count, || {
                    for address in &v4 {
                        black_box(table.lpm.lookup_v4(Ipv4Addr::from_bits(*address)));
                    }
                }),
            );
        } else {
            way(
                "lookup, batches of 64",
                measure(count, || {
                    for burst in v6.as_chunks::<BURST>().0 {
                        table.lpm.lookup_batch_v6(burst, &mut values);
                        black_box(&values);
                    }
                }),
            );
            way(
                "lookup, one by one",
                measure(count, || {
                    for address in &v6 {
                        black_box(table.lpm.lookup_v6(Ipv6Addr::from_bits(*address)));
                    }
                }),
            );
        }
        way(
            "lookup with the entry, batches of 64",
            measure(count, || {
                for burst in trace.as_chunks::<BURST>().0 {
                    for address in burst {
                        table.fib.prefetch(*address);
                    }
                    for address in burst {
                        black_box(table.fib.lookup(*address));
                    }
                }
            }),
        );
        way(
            "lookup with the entry, one by one",
            measure(count, || {
                for address in &trace {
                    black_box(table.fib.lookup(*address));
                }
            }),
        );
        results
    })
}

/// Changes one route after the other: object in hand → tables built, of which p50 and p99 are printed, in milliseconds.
pub fn publish(directory: &Path) -> Result<(), Box<dyn Error>> {
    let mut routes = routes(&read(directory, "routes")?)?;
    let mut builder = table_of(&routes);
    let mut held = builder.build();
    let mut took: Vec<f64> = (0..2000)
        .map(|n| {
            let place = n * 7919 % routes.len();
            let route = &mut routes[place];
            route.ifindex = route.ifindex % 16 + 1;
            let from = Instant::now();
            builder.set_kernel_route(*route);
            let built = builder.build();
            let ms = from.elapsed().as_secs_f64() * 1e3;
            // As when the last worker has adopted the next: the former one goes, outside of what is measured.
            held = built;
            ms
        })
        .collect();
    black_box(held);
    took.sort_by(f64::total_cmp);
    println!("{{\"p50\":{:.4},\"p99\":{:.4},\"max\":{:.4}}}", took[1000], took[1980], took[1999]);
    Ok(())
}

fn ifindex(entry: &FibEntry) -> u32 {
    match entry {
        FibEntry::Via { ifindex, .. } => *ifindex,
        _ => NOTHING,
    }
}

fn table_of(routes: &[KernelRoute]) -> TableBuilder {
    let mut builder = TableBuilder::new(1, Box::new(|_, _| 0));
    builder.kernel_routes(routes);
    builder
}

fn routes(text: &str) -> Result<Vec<KernelRoute>, Box<dyn Error>> {
    text.lines()
        .map(|line| {
            let mut words = line.split(' ');
            let (Some(first), Some(length), Some(value)) = (words.next(), words.next(), words.next()) else {
                return Err(format!("no route: {line}").into());
            };
            let prefix = Prefix::new(address(first)?, length.parse()?);
            Ok(KernelRoute { prefix, ifindex: value.parse()?, gateway: None, mtu: 1500, source: None })
        })
        .collect()
}

fn address(text: &str) -> Result<IpAddr, Box<dyn Error>> {
    Ok(if text.len() == 32 {
        IpAddr::V6(Ipv6Addr::from_bits(u128::from_str_radix(text, 16)?))
    } else {
        IpAddr::V4(Ipv4Addr::from_bits(text.parse()?))
    })
}
