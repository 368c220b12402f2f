//! URLs by RFC 3986, read strictly: no parser behind this one has anything left to mend.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Rules;

/// The longest URL that a webhook may have.
pub const MAX_URL_BYTES: usize = 2048;

impl Rules {
    /// What is wrong with a URL to post to. Names are resolved, and checked again, when sending.
    pub fn check_url(&self, url: &str) -> Result<(), String> {
        if url.is_empty() {
            return Err("required".to_owned());
        }
        if url.len() > MAX_URL_BYTES {
            return Err(format!("must be at most {MAX_URL_BYTES} bytes"));
        }
        let (scheme, rest) = url.split_once("://").ok_or("must begin with https:// or http://")?;
        let default_port = match scheme.to_ascii_lowercase().as_str() {
            "https" => 443,
            "http" if self.allow_http || self.development => 80,
            "http" => return Err("must be an https URL: http is not allowed here".to_owned()),
            _ => return Err("must begin with https:// or http://".to_owned()),
        };
        let authority = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
        check_tail(&rest[authority.len()..])?;
        if authority.contains('@') {
            return Err("must not hold user info; see authentication".to_owned());
        }
        let (host, port) = split_port(authority)?;
        self.check_host(host)?;
        self.check_port(port.unwrap_or(default_port))?;
        // No text is known that gets here and is none: the sender's parser has the last word.
        let sent = url.split('#').next().unwrap_or_default();
        sent.parse::<http::Uri>().map_err(|e| format!("is not a URL: {e}"))?;
        Ok(())
    }

    fn check_host(&self, host: &str) -> Result<(), String> {
        if let Some(literal) = host.strip_prefix('[') {
            let literal = literal.strip_suffix(']').unwrap_or_default();
            let address: Ipv6Addr = literal.parse().map_err(|_| "[…] must be an IPv6 address")?;
            return self.check(IpAddr::V6(address)).map_err(|e| e.to_string());
        }
        let name = host.strip_suffix('.').unwrap_or(host);
        let last = name.rsplit('.').next().unwrap_or_default();
        if is_number(last) {
            // Not 127.1, 2130706433 or 0x7f.0.0.1, which parsers read in ways of their own.
            let address: Ipv4Addr =
                host.parse().map_err(|_| "a numeric host must be an IPv4 address of four decimal numbers")?;
            return self.check(IpAddr::V4(address)).map_err(|e| e.to_string());
        }
        check_name(name)?;
        let lower = name.to_ascii_lowercase();
        if lower == "localhost" || lower.ends_with(".localhost") {
            self.check(IpAddr::V4(Ipv4Addr::LOCALHOST))
                .map_err(|e| format!("{host} is this machine: {e}"))?;
        }
        Ok(())
    }
}

/// Path, query and fragment.
fn check_tail(tail: &str) -> Result<(), String> {
    let (before, fragment) = tail.split_once('#').unwrap_or((tail, ""));
    let (path, query) = before.split_once('?').unwrap_or((before, ""));
    for (part, name, also) in [(path, "path", "/"), (query, "query", "/?"), (fragment, "fragment", "/?")] {
        check_characters(part, name, also)?;
    }
    Ok(())
}

/// RFC 3986's pchar, and `also`.
fn check_characters(part: &str, name: &str, also: &str) -> Result<(), String> {
    let mut rest = part;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        if c == '%' {
            let hex = rest.get(..2).filter(|it| it.bytes().all(|b| b.is_ascii_hexdigit()));
            rest = &rest[hex.ok_or_else(|| format!("has a % without two hex digits in its {name}"))?.len()..];
        } else if !(c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:@".contains(c) || also.contains(c)) {
            return Err(format!("must not hold {c:?} in its {name}; write it as %XX"));
        }
    }
    Ok(())
}

fn split_port(authority: &str) -> Result<(&str, Option<u16>), String> {
    if authority.starts_with('[') && !authority.contains(']') {
        return Err("[…] must be an IPv6 address".to_owned());
    }
    let end_of_host = authority.find(']').map_or(0, |end| end + 1);
    let Some(colon) = authority[end_of_host..].find(':') else { return Ok((authority, None)) };
    let (host, port) = authority.split_at(end_of_host + colon);
    let port = &port[1..];
    match port.parse() {
        Ok(number) if port.bytes().all(|b| b.is_ascii_digit()) && !port.starts_with('0') => {
            Ok((host, Some(number)))
        }
        _ => Err("the port must be a number from 1 to 65535".to_owned()),
    }
}

/// What the URL standard would read as (the end of) an IPv4 address.
fn is_number(label: &str) -> bool {
    let hex = label.strip_prefix("0x").or_else(|| label.strip_prefix("0X"));
    match hex {
        Some(digits) => digits.bytes().all(|b| b.is_ascii_hexdigit()),
        None => !label.is_empty() && label.bytes().all(|b| b.is_ascii_digit()),
    }
}

/// A host name as the DNS carries them; others are spelled in punycode.
fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("must have a host".to_owned());
    }
    if name.len() > 253 {
        return Err("the host must be at most 253 characters".to_owned());
    }
    for label in name.split('.') {
        if let Some(c) = label.chars().find(|c| !(c.is_ascii_alphanumeric() || "-_".contains(*c))) {
            return Err(format!("must not hold {c:?} in its host"));
        }
        if label.is_empty() || label.len() > 63 || label.starts_with('-') || label.ends_with('-') {
            return Err("the host must be a name of labels of 1 to 63 characters, joined by dots".to_owned());
        }
    }
    Ok(())
}
