//! Stands between a client and a server, and changes one reply.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;

/// What is wrong with the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lie {
    None,
    /// Its id.
    Id,
    /// The product that it tells.
    Value,
}

/// Where clients connect.
#[derive(Debug)]
pub(crate) struct Meddler {
    pub(crate) port: u16,
}

impl Meddler {
    pub(crate) fn start(server: u16, lie: Lie) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                let server = TcpStream::connect(("127.0.0.1", server)).unwrap();
                let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                thread::spawn(move || carry(from, to, Lie::None));
                thread::spawn(move || carry(server, client, lie));
            }
        });
        Self { port }
    }
}

/// Passes on what comes; what comes first as a whole reply with a lie in it.
fn carry(mut from: TcpStream, mut to: TcpStream, mut lie: Lie) {
    let (mut held, mut chunk) = (Vec::new(), [0; 4096]);
    while let Ok(read @ 1..) = from.read(&mut chunk) {
        held.extend_from_slice(&chunk[..read]);
        if lie != Lie::None {
            let Some(changed) = changed(&held, lie) else { continue };
            (held, lie) = (changed, Lie::None);
        }
        if to.write_all(&std::mem::take(&mut held)).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

/// The bytes with one more in the last reply; `None` if there is no whole one that tells a product.
fn changed(bytes: &[u8], lie: Lie) -> Option<Vec<u8>> {
    let mut text = String::from_utf8(bytes.to_vec()).ok()?;
    let product = text.to_lowercase().rfind("\"product\"").filter(|_| text.trim_end().ends_with('}'))?;
    // A request of the server's own may stand before or behind the reply.
    let start = text[..product].rfind('\n').map_or(0, |end| end + 1);
    let rest = &text[product..];
    let length = rest.find("Content-Length").or_else(|| rest.find('\n')).unwrap_or(rest.len());
    let key = match lie {
        Lie::None => return None,
        Lie::Id => start + text[start..product + length].rfind("\"id\":")?,
        Lie::Value => text.to_lowercase().rfind("\"product\":")?,
    };
    let value = key + text[key..].find(':')? + 1;
    let value = value + text[value..].len() - text[value..].trim_start().len();
    if text[value..].starts_with('"') {
        text.insert(value + 1, 'x');
    } else {
        text.insert(value, '9');
    }
    if let Some(header) = text[..value].rfind("Content-Length: ") {
        let digits = header + "Content-Length: ".len();
        let end = digits + text[digits..].find('\r')?;
        let length: usize = text[digits..end].parse().ok()?;
        text.replace_range(digits..end, &(length + 1).to_string());
    }
    Some(text.into_bytes())
}
