//! Bytes put into an output stream and written.

use bytes::Bytes;
use divan::Bencher;
use warmline::wire::{Charge, Output};

use crate::codec::drain;

/// As a frame is put: what is before the id, the id, and the rest.
const PIECES: [usize; 3] = [4, 8, 52];

/// A stream that goes on, as that of an upstream connection.
#[divan::bench(args = [1, 32])]
fn put_and_write(bencher: Bencher<'_, '_>, messages: usize) {
    let mut out = Output::new();
    bencher.counter(divan::counter::ItemsCount::new(messages)).bench_local(|| {
        for _ in 0..messages {
            for size in PIECES {
                out.put(&[b'.'; 64][..size]);
            }
        }
        drain(&mut out);
    });
}

/// A new stream for one message, as that of a client with one request.
#[divan::bench]
fn put_and_write_once(bencher: Bencher<'_, '_>) {
    bencher.bench_local(|| {
        let mut out = Output::new();
        for size in PIECES {
            out.put(&[b'.'; 64][..size]);
        }
        drain(&mut out);
    });
}

/// Large enough to be referenced.
#[divan::bench]
fn reference_and_write(bencher: Bencher<'_, '_>) {
    let bytes = Bytes::from(vec![b'.'; 16 << 10]);
    let mut out = Output::new();
    bencher.counter(divan::counter::BytesCount::new(bytes.len())).bench_local(|| {
        out.put(&[b'.'; 12]);
        out.put_bytes(bytes.clone(), Charge::none());
        drain(&mut out);
    });
}
