//! A message from one transport to the other, under another seqid.
//!
//! Invariant: but for its seqid, and whether it is strict, a message is not changed, and what follows the seqid is not
//! copied. An id is what stands before the arguments, as the client wrote it. Used by both halves.

use bytes::Bytes;

use super::envelope::{self, Envelope};
use super::header::{self, FIXED, Header, SEQID};
use super::settings::{Encoding, Transport};
use crate::protocol::Id;
use crate::wire::{Charge, Output};

/// The length of a frame takes so many bytes, and does not count them.
pub(super) const PREFIX: usize = 4;

/// What is spoken on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Form {
    pub(super) transport: Transport,
    pub(super) encoding: Encoding,
}

impl Form {
    /// How an id begins: the places of both in their lists.
    fn bytes(self) -> [u8; 2] {
        [self.transport as u8, self.encoding as u8]
    }

    /// Where the message in `bytes`, of which the front is enough, begins.
    fn start(self, bytes: &[u8]) -> usize {
        match self.transport {
            Transport::Framed => PREFIX,
            Transport::Buffered => 0,
            Transport::Header => Header::read(bytes).map_or(bytes.len(), |header| header.end),
        }
    }

    /// The message or head in `bytes`: where it begins and its envelope. `None` if it is none.
    pub(super) fn open(self, bytes: &[u8]) -> Option<(usize, Envelope)> {
        let start = self.start(bytes);
        let envelope = Envelope::read(self.encoding, bytes.get(start..)?).ok()??;
        Some((start, envelope))
    }
}

/// What the sender of the message at `start` of `bytes` calls it: what it speaks, the fixed part of its header, if it
/// has one, and its envelope. A client may change its encoding from one message to the next.
pub(super) fn id(form: Form, bytes: &[u8], start: usize, envelope: &Envelope) -> Id {
    let fixed = if form.transport == Transport::Header { &bytes[..FIXED] } else { &[] };
    Id::Bytes([&form.bytes(), fixed, &bytes[start..start + envelope.end]].concat().into())
}

/// As [`id`], for a message that cannot be read: the header's seqid has to do.
pub(super) fn nameless(form: Form, frame: &[u8]) -> Id {
    let fixed = &frame[..FIXED];
    let seqid = fixed[SEQID].first_chunk().copied().unwrap_or_default();
    let envelope = envelope::write(form.encoding, envelope::CALL, b"", i32::from_be_bytes(seqid));
    Id::Bytes([&form.bytes(), fixed, &envelope].concat().into())
}

/// What an id says.
#[derive(Debug)]
pub(super) struct Named<'i> {
    pub(super) form: Form,
    /// The seqid of the header, if there was one.
    pub(super) header: [u8; 4],
    /// The envelope as it was written, and where its fields are.
    pub(super) written: &'i [u8],
    pub(super) envelope: Envelope,
}

impl<'i> Named<'i> {
    /// What `id` says, if it is one of a client of Thrift.
    pub(super) fn open(id: &'i Id) -> Option<Self> {
        let Id::Bytes(id) = id else { return None };
        let (&[transport, encoding], id) = id.split_first_chunk()?;
        let form = Form {
            transport: *Transport::ALL.get(usize::from(transport))?,
            encoding: *Encoding::ALL.get(usize::from(encoding))?,
        };
        let fixed = if form.transport == Transport::Header { FIXED } else { 0 };
        let (fixed, written) = id.split_at_checked(fixed)?;
        let header = fixed.get(SEQID).and_then(|seqid| seqid.first_chunk()).copied().unwrap_or_default();
        Some(Self { form, header, written, envelope: Envelope::read(form.encoding, written).ok()?? })
    }
}

/// The seqid of a message as its sender wrote it, and how it writes what is before it.
#[derive(Debug)]
pub(super) struct Seqid<'s> {
    pub(super) message: &'s [u8],
    /// That of its header.
    pub(super) header: [u8; 4],
    /// As binary messages were written before there were strict ones.
    pub(super) is_old: bool,
}

/// Writes what `bytes` holds, a message or the head of one, for the transport `to` and under `seqid`.
pub(super) fn put(
    form: Form,
    to: Transport,
    (bytes, charge): (&Bytes, &Charge),
    seqid: &Seqid<'_>,
    out: &mut Output,
) {
    // Codecs only let messages through that hold their envelope.
    let Some((start, envelope)) = form.open(bytes) else { return };
    let message = &bytes[start..];
    let rewritten;
    let front = if form.encoding == Encoding::Binary && envelope.is_old != seqid.is_old {
        let name = &message[envelope.name.clone()];
        rewritten = envelope::binary_front(seqid.is_old, envelope.kind, name);
        &rewritten[..]
    } else {
        &message[..envelope.seqid.start]
    };
    let size = size(form, bytes, start) - envelope.seqid.end + front.len() + seqid.message.len();
    match (to, form.transport) {
        (Transport::Buffered, _) => {}
        (Transport::Framed, _) => out.put(&length(size)),
        (Transport::Header, Transport::Header) => {
            out.put(&length(size + start - PREFIX));
            out.put(&bytes[PREFIX..SEQID.start]);
            out.put(&seqid.header);
            out.put(&bytes[SEQID.end..start]);
        }
        (Transport::Header, _) => {
            let header = header::plain(form.encoding, seqid.header);
            out.put(&length(size + header.len()));
            out.put(&header);
        }
    }
    out.put(front);
    out.put(seqid.message);
    out.put_shared(bytes, start + envelope.seqid.end, charge);
}

/// The length of the message of which `bytes` may be only the head.
fn size(form: Form, bytes: &[u8], start: usize) -> usize {
    match (form.transport, bytes.first_chunk()) {
        (Transport::Framed, Some(&prefix)) => u32::from_be_bytes(prefix) as usize,
        _ => bytes.len() - start,
    }
}

fn length(size: usize) -> [u8; PREFIX] {
    // No message is longer than 2^30 bytes.
    u32::try_from(size).unwrap_or(u32::MAX).to_be_bytes()
}

/// The message at `start` of `bytes`, as the transport `to` carries it.
pub(super) fn convert(form: Form, to: Transport, bytes: Bytes, start: usize) -> Bytes {
    match to {
        _ if to == form.transport => bytes,
        Transport::Buffered => bytes.slice(start..),
        Transport::Framed | Transport::Header => {
            wrap(Form { transport: to, ..form }, &bytes[start..], [0; 4]).into()
        }
    }
}

/// A copy of `message` as the transport carries it; `seqid` is for its header, if it has one.
pub(super) fn wrap(form: Form, message: &[u8], seqid: [u8; 4]) -> Vec<u8> {
    match form.transport {
        Transport::Buffered => message.to_vec(),
        Transport::Framed => [&length(message.len()), message].concat(),
        Transport::Header => {
            let header = header::plain(form.encoding, seqid);
            [&length(message.len() + header.len())[..], &header, message].concat()
        }
    }
}
