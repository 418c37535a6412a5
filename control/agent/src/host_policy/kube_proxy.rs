//! Whether a kube-proxy has rules in this kernel: it would translate services that the fastpath translates too.

use std::collections::BTreeSet;
use std::fmt;

use caracal_nft::{Nft, NftError, TableName};

/// Where iptables' older half keeps what tables it has made; it shows none of their rules.
const LEGACY_TABLES: [&str; 2] = ["/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"];
/// The table of kube-proxy's nftables mode, of families ip and ip6.
const TABLE: &str = "kube-proxy";
/// The chain that kube-proxy's iptables mode begins with.
const CHAIN: &str = "KUBE-SERVICES";

/// What there is of a kube-proxy's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KubeProxy {
    /// Where its rules are, as nft(8) names places.
    pub places: BTreeSet<String>,
    /// Whether iptables' older half is in use, where its rules could be as well.
    pub may_be_legacy: bool,
}

impl KubeProxy {
    /// Looks for it.
    ///
    /// # Errors
    /// nf_tables cannot be listed.
    pub fn look(nft: &mut Nft) -> Result<KubeProxy, NftError> {
        let legacy = LEGACY_TABLES.iter().filter_map(|path| std::fs::read_to_string(path).ok());
        let may_be_legacy = legacy.collect::<String>().lines().any(|table| table == "nat");
        Ok(KubeProxy { places: places(&nft.tables()?, &nft.chains()?), may_be_legacy })
    }
}

fn places(tables: &BTreeSet<TableName>, chains: &BTreeSet<(TableName, String)>) -> BTreeSet<String> {
    let own = tables.iter().filter(|table| table.name == TABLE);
    let own = own.map(|table| format!("table {} {}", table.family, table.name));
    let of_iptables = chains.iter().filter(|(table, chain)| chain == CHAIN && table.name != TABLE);
    own.chain(
        of_iptables.map(|(table, chain)| format!("chain {chain} of table {} {}", table.family, table.name)),
    )
    .collect()
}

impl fmt::Display for KubeProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.places.is_empty(), self.may_be_legacy) {
            (true, false) => f.write_str("no kube-proxy has rules here"),
            (true, true) => f.write_str(
                "no kube-proxy has rules in nf_tables here; iptables-legacy has a nat table, whose rules cannot be seen from here: look at iptables-legacy -t nat -S for KUBE-SERVICES",
            ),
            (false, _) => {
                let places: Vec<&str> = self.places.iter().map(String::as_str).collect();
                write!(
                    f,
                    "a kube-proxy's rules are here ({}): they translate what this host sends to services before Caracal sees it. Run the agent with --services coexist to leave services to kube-proxy; or, for --services replace, stop kube-proxy and remove its rules with kube-proxy --cleanup",
                    places.join(", ")
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_table_and_its_chains_are_known_from_others() {
        let table = |family, name: &str| TableName { family, name: name.into() };
        let tables =
            BTreeSet::from([table("ip", "kube-proxy"), table("ip", "nat"), table("inet", "caracal")]);
        let chains = BTreeSet::from([
            (table("ip", "kube-proxy"), "services".to_owned()),
            (table("ip", "nat"), "KUBE-SERVICES".to_owned()),
            (table("ip", "nat"), "POSTROUTING".to_owned()),
        ]);
        let found = KubeProxy { places: places(&tables, &chains), may_be_legacy: false };
        let shown = found.to_string();
        assert!(shown.contains("(chain KUBE-SERVICES of table ip nat, table ip kube-proxy)"), "{shown}");
        assert!(shown.contains("--services coexist") && shown.contains("--services replace"), "{shown}");
        let none = KubeProxy {
            places: places(&BTreeSet::from([table("ip", "nat")]), &BTreeSet::new()),
            may_be_legacy: false,
        };
        assert_eq!(none.to_string(), "no kube-proxy has rules here");
    }
}
