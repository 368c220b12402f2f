//! A serde serializer that writes a value as the content of an element.

use std::fmt::{self, Display, Write};

use serde::ser::{self, Impossible, Serialize, SerializeMap, SerializeSeq, SerializeStruct, Serializer};

use super::escape;

/// An element whose start tag has been written up to its ">": whatever is serialised into it writes
/// attributes, ends the tag and goes on with content. The end tag is the parent's to write.
pub(super) struct Element<'o> {
    out: &'o mut String,
    /// The key that it stands for; empty: no tag is open, for this is the document or an attribute.
    key: &'static str,
    attribute: bool,
}

impl<'o> Element<'o> {
    /// What is serialised into it must be a struct of one field, which becomes the root element.
    pub(super) fn document(out: &'o mut String) -> Self {
        Self { out, key: "", attribute: false }
    }

    /// Between the quotes of an attribute, plain values alone.
    fn attribute(out: &'o mut String) -> Self {
        Self { out, key: "", attribute: true }
    }

    fn end_tag(&mut self) {
        if !self.key.is_empty() {
            self.out.push('>');
        }
    }

    fn number(mut self, number: impl Display) -> Result<(), NoXml> {
        self.end_tag();
        write!(self.out, "{number}").map_err(|_| NoXml)
    }
}

/// What an item of a list is called.
fn singular(list: &str) -> &'static str {
    match list {
        "fields" => "field",
        "replies" | "data" => "reply",
        "attachments" => "attachment",
        "questionResponses" => "questionResponse",
        _ => "value",
    }
}

fn child<T: Serialize + ?Sized>(out: &mut String, key: &'static str, value: &T) -> Result<(), NoXml> {
    out.push('<');
    out.push_str(key);
    value.serialize(Element { out, key, attribute: false })?;
    out.push_str("</");
    out.push_str(key);
    out.push('>');
    Ok(())
}

/// A shape that no body has.
#[derive(Debug)]
pub(super) struct NoXml;

impl Display for NoXml {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a body that XML is defined for")
    }
}

impl std::error::Error for NoXml {}

impl ser::Error for NoXml {
    fn custom<T: Display>(_: T) -> Self {
        Self
    }
}

impl<'o> Serializer for Element<'o> {
    type Ok = ();
    type Error = NoXml;
    type SerializeSeq = Items<'o>;
    type SerializeTuple = Impossible<(), NoXml>;
    type SerializeTupleStruct = Impossible<(), NoXml>;
    type SerializeTupleVariant = Impossible<(), NoXml>;
    type SerializeMap = Entries<'o>;
    type SerializeStruct = Fields<'o>;
    type SerializeStructVariant = Impossible<(), NoXml>;

    fn serialize_str(mut self, text: &str) -> Result<(), NoXml> {
        self.end_tag();
        if self.attribute {
            escape::attribute(self.out, text);
        } else {
            escape::text(self.out, text);
        }
        Ok(())
    }

    fn serialize_bool(mut self, it: bool) -> Result<(), NoXml> {
        self.end_tag();
        self.out.push_str(if it { "true" } else { "false" });
        Ok(())
    }

    fn serialize_i8(self, number: i8) -> Result<(), NoXml> {
        self.number(number)
    }

    fn serialize_i16(self, number: i16) -> Result<(), NoXml> {
        self.number(number)
    }

    fn serialize_i32(self, number: i32) -> Result<(), NoXml> {
        self.number(number)
    }

    fn serialize_i64(self, number: i64) -> Result<(), NoXml> {
        self.number(number)
    }

    fn serialize_u8(self, number: u8) -> Result<(), NoXml> {
        self.number(number)
    }

    fn serialize_u16(self, number: u16) -> Result<(), NoXml> {
        self.number(number)
    }

    fn serialize_u32(self, number: u32) -> Result<(), NoXml> {
        self.number(number)
    }

    fn serialize_u64(self, number: u64) -> Result<(), NoXml> {
        self.number(number)
    }

    fn serialize_f32(self, number: f32) -> Result<(), NoXml> {
        self.serialize_f64(number.into())
    }

    /// As the JSON body writes it.
    fn serialize_f64(self, number: f64) -> Result<(), NoXml> {
        let text = serde_json::to_string(&number).map_err(|_| NoXml)?;
        self.serialize_str(&text)
    }

    fn serialize_char(self, c: char) -> Result<(), NoXml> {
        self.serialize_str(c.encode_utf8(&mut [0; 4]))
    }

    fn serialize_bytes(self, _: &[u8]) -> Result<(), NoXml> {
        Err(NoXml)
    }

    fn serialize_none(self) -> Result<(), NoXml> {
        self.serialize_unit()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), NoXml> {
        value.serialize(self)
    }

    fn serialize_unit(mut self) -> Result<(), NoXml> {
        self.end_tag();
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), NoXml> {
        self.serialize_unit()
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, name: &'static str) -> Result<(), NoXml> {
        self.serialize_str(name)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<(), NoXml> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<(), NoXml> {
        Err(NoXml)
    }

    fn serialize_seq(mut self, _: Option<usize>) -> Result<Items<'o>, NoXml> {
        self.end_tag();
        Ok(Items { out: self.out, name: singular(self.key) })
    }

    fn serialize_map(mut self, _: Option<usize>) -> Result<Entries<'o>, NoXml> {
        self.end_tag();
        Ok(Entries { out: self.out })
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Fields<'o>, NoXml> {
        let open = !self.key.is_empty();
        Ok(Fields { out: self.out, open })
    }

    fn serialize_tuple(self, _: usize) -> Result<Self::SerializeTuple, NoXml> {
        Err(NoXml)
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self::SerializeTupleStruct, NoXml> {
        Err(NoXml)
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleVariant, NoXml> {
        Err(NoXml)
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant, NoXml> {
        Err(NoXml)
    }
}

/// A list's items.
pub(super) struct Items<'o> {
    out: &'o mut String,
    name: &'static str,
}

impl SerializeSeq for Items<'_> {
    type Ok = ();
    type Error = NoXml;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), NoXml> {
        child(self.out, self.name, value)
    }

    fn end(self) -> Result<(), NoXml> {
        Ok(())
    }
}

/// A map's entries.
pub(super) struct Entries<'o> {
    out: &'o mut String,
}

impl SerializeMap for Entries<'_> {
    type Ok = ();
    type Error = NoXml;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), NoXml> {
        self.out.push_str("<entry key=\"");
        key.serialize(Element::attribute(self.out))?;
        self.out.push('"');
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), NoXml> {
        value.serialize(Element { out: self.out, key: "entry", attribute: false })?;
        self.out.push_str("</entry>");
        Ok(())
    }

    fn end(self) -> Result<(), NoXml> {
        Ok(())
    }
}

/// A struct's fields; `open`: the start tag still takes attributes.
pub(super) struct Fields<'o> {
    out: &'o mut String,
    open: bool,
}

impl SerializeStruct for Fields<'_> {
    type Ok = ();
    type Error = NoXml;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<(), NoXml> {
        if key == "@class" {
            self.out.push_str(" class=\"");
            value.serialize(Element::attribute(self.out))?;
            self.out.push('"');
            return Ok(());
        }
        if std::mem::take(&mut self.open) {
            self.out.push('>');
        }
        child(self.out, key, value)
    }

    fn end(self) -> Result<(), NoXml> {
        if self.open {
            self.out.push('>');
        }
        Ok(())
    }
}
