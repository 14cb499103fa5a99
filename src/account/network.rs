//! Whom a limit per address counts as one. Pure.

use std::net::{IpAddr, Ipv6Addr};

/// The address itself; of IPv6 its /64, since a site has all of one to itself.
pub fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_site_is_one_client() {
        for (address, counted_as) in [
            ("192.0.2.1", "192.0.2.1"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ] {
            let [address, counted_as] = [address, counted_as].map(|text| text.parse().expect(text));
            assert_eq!(network(address), counted_as);
        }
    }
}
