//! Which endpoints there are, of which sites, and what share each site is due.

use super::load::records::EndpointId;

/// A site as the drill's figures see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteWeight {
    /// Its name.
    pub name: String,
    /// Its configured weight.
    pub weight: u32,
}

/// The sites and endpoints of a drill, and which site it loses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    sites: Vec<SiteWeight>,
    endpoints: Vec<String>,
    site_of: Vec<usize>,
    hit: usize,
}

impl Topology {
    /// Sites with the names of their endpoints; `hit` is the one to lose.
    /// `None` when there is no site of that name.
    #[must_use]
    pub fn new(sites: &[(SiteWeight, Vec<String>)], hit: &str) -> Option<Self> {
        let hit = sites.iter().position(|(site, _)| site.name == hit)?;
        let mut endpoints = Vec::new();
        let mut site_of = Vec::new();
        for (index, (_, names)) in sites.iter().enumerate() {
            endpoints.extend(names.iter().cloned());
            site_of.extend(names.iter().map(|_| index));
        }
        Some(Self {
            sites: sites.iter().map(|(site, _)| site.clone()).collect(),
            endpoints,
            site_of,
            hit,
        })
    }

    /// The sites, in their configured order.
    #[must_use]
    pub fn sites(&self) -> &[SiteWeight] {
        &self.sites
    }

    /// The names of all endpoints; an [`EndpointId`] is an index into it.
    #[must_use]
    pub fn endpoints(&self) -> &[String] {
        &self.endpoints
    }

    /// Index of the site that `endpoint` belongs to.
    #[must_use]
    pub fn site_of(&self, endpoint: EndpointId) -> usize {
        self.site_of[usize::from(endpoint)]
    }

    /// Index of the site the drill loses.
    #[must_use]
    pub fn hit(&self) -> usize {
        self.hit
    }

    /// Whether `endpoint` belongs to the site the drill loses.
    #[must_use]
    pub fn is_hit(&self, endpoint: EndpointId) -> bool {
        self.site_of(endpoint) == self.hit
    }

    /// Each site's share of new connections by its weight, 0 to 1.
    #[must_use]
    pub fn configured(&self) -> Vec<f64> {
        self.by_weight(|_| true)
    }

    /// The same while the hit site takes none.
    #[must_use]
    pub fn without_hit(&self) -> Vec<f64> {
        self.by_weight(|site| site != self.hit)
    }

    fn by_weight(&self, takes: impl Fn(usize) -> bool) -> Vec<f64> {
        let weight = |(index, site): (usize, &SiteWeight)| {
            if takes(index) {
                f64::from(site.weight)
            } else {
                0.0
            }
        };
        let total: f64 = self.sites.iter().enumerate().map(weight).sum();
        let share = |weight: f64| if total > 0.0 { weight / total } else { 0.0 };
        self.sites
            .iter()
            .enumerate()
            .map(|site| share(weight(site)))
            .collect()
    }
}

/// The lab's three sites with two endpoints each, for tests of what is computed from them.
#[cfg(test)]
pub fn three_sites(hit: &str) -> Topology {
    let site = |name: &str, weight| {
        let endpoints = ["a", "b"].map(|letter| format!("{name}-{letter}"));
        let site = SiteWeight {
            name: name.into(),
            weight,
        };
        (site, endpoints.to_vec())
    };
    let sites = [site("dc01", 50), site("dc02", 30), site("dc03", 20)];
    Topology::new(&sites, hit).unwrap_or_else(|| panic!("no site {hit}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_follow_the_weights_with_and_without_the_hit_site() {
        let topology = three_sites("dc01");
        assert_eq!(topology.configured(), [0.5, 0.3, 0.2]);
        assert_eq!(topology.without_hit(), [0.0, 0.6, 0.4]);
        assert!(topology.is_hit(1) && !topology.is_hit(2));
        assert_eq!(topology.site_of(5), 2);
        assert_eq!(topology.endpoints()[3], "dc02-b");
    }

    #[test]
    fn an_unknown_site_is_no_topology() {
        assert_eq!(Topology::new(&[], "dc09"), None);
    }
}
