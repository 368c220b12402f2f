//! What is printed once both services listen: where, and three calls to paste.

use std::{
    io::{self, Write},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// To standard output.
pub fn print(config: SocketAddr, delivery: SocketAddr, development: bool) -> io::Result<()> {
    io::stdout().write_all(text(config, delivery, development).as_bytes())
}

fn text(config: SocketAddr, delivery: SocketAddr, development: bool) -> String {
    let (config, delivery) = (reachable(config), reachable(delivery));
    let post_url = if development { "http://127.0.0.1:8080/hook" } else { "https://example.com/hook" };
    format!(
        r#"hookline {version}
  config-service    {config}
  delivery-service  {delivery}

Create a webhook, publish an event that fires it, and see its delivery:

grpcurl -plaintext -d '{{"webhook": {{"licenseCode": "demo", "type": "WEBHOOK_TYPE_GLOBAL_APPLICATION_EVENTS", "postUrl": "{post_url}"}}}}' {config} hookline.v1.WebhookService/CreateWebhook
grpcurl -plaintext -d '{{"event": {{"licenseCode": "demo", "activity": {{"eventName": "Added to Cart", "category": "EVENT_CATEGORY_APPLICATION", "userId": "johndoe"}}}}}}' {delivery} hookline.v1.EventService/PublishEvent
grpcurl -plaintext -d '{{"licenseCode": "demo"}}' {delivery} hookline.v1.DeliveryService/ListDeliveries
"#,
        version = env!("CARGO_PKG_VERSION"),
    )
}

/// Where this machine reaches what listens there.
pub fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() {
            Ipv4Addr::LOCALHOST.into()
        } else {
            Ipv6Addr::LOCALHOST.into()
        });
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_calls_are_whole_lines_with_json_and_the_ports_that_are_bound() {
        let text = text("0.0.0.0:7001".parse().unwrap(), "[::]:7002".parse().unwrap(), true);
        let calls: Vec<_> = text.lines().filter(|line| line.starts_with("grpcurl -plaintext")).collect();
        assert_eq!(calls.len(), 3, "{text}");
        for (call, address) in calls.iter().zip(["127.0.0.1:7001", "[::1]:7002", "[::1]:7002"]) {
            let [_, json, rest] = call.splitn(3, '\'').collect::<Vec<_>>()[..] else { panic!("{call}") };
            serde_json::from_str::<serde_json::Value>(json).unwrap();
            assert!(rest.starts_with(&format!(" {address} hookline.v1.")), "{call}");
        }
    }
}
