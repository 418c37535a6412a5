//! The production judge and the reference must agree on every flow of every small random world.

mod worlds;

use caracal_model::case::World;
use caracal_model::case::report::Observed;
use proptest::prelude::*;

use crate::judge;
use crate::reference::Reference;

/// The world as a case file would say it, so that a failure can be kept as one.
fn told(world: &World) -> String {
    let objects = world.objects.iter().map(|object| format!("  - {}\n", object.to_value()));
    format!("objects:\n{}", objects.collect::<String>())
}

/// How many worlds a run tries: some seconds' worth, or what PROPTEST_CASES says.
fn config() -> ProptestConfig {
    let asked = std::env::var_os("PROPTEST_CASES").is_some();
    if asked { ProptestConfig::default() } else { ProptestConfig::with_cases(100) }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn the_judge_agrees_with_the_reference(world in worlds::worlds()) {
        let reference = Reference::new(&world);
        let judged = judge::judge(&world).unwrap();
        for (flow, production) in world.flows.iter().zip(judged) {
            let plain = reference.judge(flow);
            prop_assert_ne!(plain.observed, Observed::Error, "{}", plain.why);
            prop_assert_eq!(
                production.observed,
                plain.observed,
                "{:?}\nproduction: {}\nreference: {}\n{}",
                flow,
                production.why,
                plain.why,
                told(&world)
            );
        }
    }
}
