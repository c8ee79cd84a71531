//! Names of what the datapath knows by address.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use director_core::Model;

use crate::datapath::Vip;

/// Services and endpoints by their addresses.
pub(super) struct Names {
    services: HashMap<Vip, Arc<str>>,
    endpoints: HashMap<(Vip, IpAddr, u16), Endpoint>,
}

/// What an endpoint is called.
#[derive(Clone)]
pub(super) struct Endpoint {
    pub name: Arc<str>,
    pub site: Arc<str>,
}

impl Names {
    pub fn new(model: &Model) -> Self {
        let services = model.services.iter();
        let endpoints = model.services.iter().flat_map(|service| {
            service.endpoints.iter().map(move |endpoint| {
                let named = Endpoint {
                    name: endpoint.name.clone(),
                    site: endpoint.site.clone(),
                };
                ((Vip::from(service), endpoint.address, endpoint.port), named)
            })
        });
        Self {
            services: services
                .map(|service| (Vip::from(service), service.name.clone()))
                .collect(),
            endpoints: endpoints.collect(),
        }
    }

    pub fn service(&self, vip: &Vip) -> Option<String> {
        self.services.get(vip).map(|name| name.to_string())
    }

    pub fn endpoint(&self, vip: &Vip, (address, port): (IpAddr, u16)) -> Option<&Endpoint> {
        self.endpoints.get(&(*vip, address, port))
    }
}
