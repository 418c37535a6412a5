use super::*;

#[test]
fn versions_stand_in_kubernetes_order() {
    let mut versions = ["foo1", "v1alpha1", "v10", "v2", "v1beta2", "v1", "v1beta10", "v11beta2", "foo10"];
    versions.sort_by_cached_key(|version| version_order(version));
    assert_eq!(versions, ["v10", "v2", "v1", "v11beta2", "v1beta10", "v1beta2", "v1alpha1", "foo1", "foo10"]);
}
