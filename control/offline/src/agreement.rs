//! The production judge and the reference must agree on every flow of every small random world.

mod worlds;

use proptest::prelude::*;

use crate::reference::Reference;

proptest! {
    #[test]
    fn worlds_can_be_made(world in worlds::worlds()) {
        let reference = Reference::new(&world);
        for flow in &world.flows {
            reference.judge(flow);
        }
    }
}
