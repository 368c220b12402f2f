//! Messages from proto JSON, by reflection: convenient, not fast.

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};

/// The text is not the message; says why and where.
#[derive(Debug)]
pub struct NotTheMessage(String);

impl std::fmt::Display for NotTheMessage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NotTheMessage {}

/// Reads a message of the contract; `name` is its name in `hookline.v1`, such as
/// "PublishEventRequest". Unknown fields are an error.
pub fn from_json<M: Message + Default>(name: &str, json: &str) -> Result<M, NotTheMessage> {
    let pool = DescriptorPool::decode(crate::DESCRIPTORS).map_err(|e| NotTheMessage(e.to_string()))?;
    let name = format!("hookline.v1.{name}");
    let message =
        pool.get_message_by_name(&name).ok_or_else(|| NotTheMessage(format!("no message {name}")))?;
    let mut reader = serde_json::Deserializer::from_str(json);
    let message =
        DynamicMessage::deserialize(message, &mut reader).map_err(|e| NotTheMessage(e.to_string()))?;
    reader.end().map_err(|e| NotTheMessage(e.to_string()))?;
    message.transcode_to().map_err(|e| NotTheMessage(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::PublishEventRequest;

    #[test]
    fn reads_a_message_and_says_what_is_none() {
        let json = r#"{"event": {"licenseCode": "~1", "eventTime": "2018-09-15T18:29:00-08:00"}}"#;
        let request: PublishEventRequest = from_json("PublishEventRequest", json).unwrap();
        let event = request.event.unwrap();
        assert_eq!((event.license_code.as_str(), event.event_time.unwrap().seconds), ("~1", 1_537_064_940));
        let unknown = from_json::<PublishEventRequest>("PublishEventRequest", r#"{"evnt": {}}"#);
        assert!(unknown.unwrap_err().to_string().contains("evnt"));
        assert!(from_json::<PublishEventRequest>("Nothing", "{}").is_err());
    }
}
