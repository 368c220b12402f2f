//! The addresses that no webhook may post to, by name, and the IPv4 addresses that IPv6 ones embed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The name of the range that forbids the address; `allowed` overrules every range, for the address
/// and for those that it embeds.
pub(super) fn forbidden(address: IpAddr, allowed: &dyn Fn(IpAddr) -> bool) -> Option<&'static str> {
    if allowed(address) {
        return None;
    }
    match address {
        IpAddr::V4(v4) => forbidden_v4(v4),
        IpAddr::V6(v6) => forbidden_v6(v6, allowed),
    }
}

fn forbidden_v4(address: Ipv4Addr) -> Option<&'static str> {
    let bits = u32::from(address);
    V4.iter().find(|(net, prefix, _)| (bits ^ u32::from_be_bytes(*net)) >> (32 - prefix) == 0).map(|it| it.2)
}

fn forbidden_v6(address: Ipv6Addr, allowed: &dyn Fn(IpAddr) -> bool) -> Option<&'static str> {
    let embedded = |v4: Ipv4Addr| forbidden(IpAddr::V4(v4), allowed);
    let of = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    let parts = address.segments();
    let low = of(parts[6], parts[7]);
    match parts {
        [0, 0, 0, 0, 0, 0, 0, 0] => return Some("unspecified"),
        [0, 0, 0, 0, 0, 0, 0, 1] => return Some("loopback"),
        // Compatible, mapped and translated (SIIT); NAT64 with the well-known prefix.
        [0, 0, 0, 0, 0, 0 | 0xffff, ..] | [0, 0, 0, 0, 0xffff, 0, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => {
            return embedded(low);
        }
        // NAT64 with a network's own prefix: where in it the address stands is that network's affair.
        [0x64, 0xff9b, 1, ..] => return (!allowed(IpAddr::V4(low))).then_some("local NAT64"),
        // 6to4.
        [0x2002, high, next, ..] => return embedded(of(high, next)),
        // Teredo: the server's, and the client's in complement.
        [0x2001, 0, high, next, ..] => {
            return embedded(of(high, next)).or_else(|| embedded(of(!parts[6], !parts[7])));
        }
        // ISATAP, below any prefix, so the prefix is judged too.
        [.., 0 | 0x200, 0x5efe, _, _] => {
            if let Some(range) = embedded(low) {
                return Some(range);
            }
        }
        _ => {}
    }
    let bits = u128::from(address);
    let lies_in =
        |net: [u16; 8], prefix: u32| (bits ^ u128::from(Ipv6Addr::from(net))) >> (128 - prefix) == 0;
    if let Some((_, _, range)) = V6.iter().find(|(net, prefix, _)| lies_in(*net, *prefix)) {
        return Some(range);
    }
    // All global unicast addresses that have ever been given out.
    (!lies_in([0x2000, 0, 0, 0, 0, 0, 0, 0], 3)).then_some("reserved")
}

/// Network, bits of prefix, name. The first that fits names it.
const V4: [([u8; 4], u32, &str); 22] = [
    ([169, 254, 169, 254], 32, "metadata"),
    ([169, 254, 170, 2], 32, "metadata"),
    ([100, 100, 100, 200], 32, "metadata"),
    ([192, 0, 0, 192], 32, "metadata"),
    ([168, 63, 129, 16], 32, "metadata"),
    ([0, 0, 0, 0], 8, "unspecified"),
    ([10, 0, 0, 0], 8, "private"),
    ([100, 64, 0, 0], 10, "carrier NAT"),
    ([127, 0, 0, 0], 8, "loopback"),
    ([169, 254, 0, 0], 16, "link-local"),
    ([172, 16, 0, 0], 12, "private"),
    ([192, 0, 0, 0], 24, "reserved"),
    ([192, 0, 2, 0], 24, "documentation"),
    ([192, 88, 99, 0], 24, "reserved"),
    ([192, 168, 0, 0], 16, "private"),
    ([198, 18, 0, 0], 15, "benchmarking"),
    ([198, 51, 100, 0], 24, "documentation"),
    ([203, 0, 113, 0], 24, "documentation"),
    ([233, 252, 0, 0], 24, "documentation"),
    ([224, 0, 0, 0], 4, "multicast"),
    ([255, 255, 255, 255], 32, "broadcast"),
    ([240, 0, 0, 0], 4, "reserved"),
];

const V6: [([u16; 8], u32, &str); 14] = [
    ([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254], 128, "metadata"),
    ([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128, "metadata"),
    ([0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42], 128, "metadata"),
    ([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10, "link-local"),
    ([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10, "site-local"),
    ([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7, "unique-local"),
    ([0xff00, 0, 0, 0, 0, 0, 0, 0], 8, "multicast"),
    ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32, "documentation"),
    ([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20, "documentation"),
    ([0x2001, 2, 0, 0, 0, 0, 0, 0], 48, "benchmarking"),
    ([0x2001, 0x10, 0, 0, 0, 0, 0, 0], 28, "reserved"),
    ([0x2001, 0x20, 0, 0, 0, 0, 0, 0], 28, "reserved"),
    ([0x100, 0, 0, 0, 0, 0, 0, 0], 64, "reserved"),
    ([0x5f00, 0, 0, 0, 0, 0, 0, 0], 16, "reserved"),
];
