//! `warmline explain`: how captured bytes would be cut into messages.
//!
//! Invariant: the daemon's own codecs do the cutting, and what is shown does not depend on the pieces in
//! which the bytes come. No more than a message and a piece is held. Called by `cli`.

mod cutter;
mod table;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;
use std::io::{self, BufWriter, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use self::cutter::{Cutter, FRONT, Step};
use self::table::Table;
use super::{Exit, fail, show};
use crate::config::{Plan, Source, protocol_named};
use crate::protocol::{BadRequest, Malformed, Need, Protocol};

/// Bytes read at a time.
const PIECE: usize = 64 * 1024;

#[derive(Debug, clap::Args)]
#[command(override_usage = "warmline explain --protocol PROTOCOL [--replies] < CAPTURE
       warmline explain --config FILE --upstream NAME [--replies] < CAPTURE")]
pub(super) struct Args {
    /// What was spoken: line, jsonrpc, thrift, or a preset of frame as in netty4.
    #[arg(long, value_name = "PROTOCOL", conflicts_with_all = ["config", "upstream"])]
    #[arg(required_unless_present_any = ["config", "upstream"])]
    protocol: Option<String>,
    /// The configuration file that says what was spoken.
    #[arg(long, value_name = "FILE", requires = "upstream")]
    config: Option<PathBuf>,
    /// Its upstream that says so.
    #[arg(long, value_name = "NAME", requires = "config")]
    upstream: Option<String>,
    /// The bytes are what a server sent, not a client.
    #[arg(long)]
    replies: bool,
}

pub(super) fn run(args: &Args) -> Exit {
    let protocol = match args.protocol() {
        Ok(protocol) => protocol,
        Err(exit) => return exit,
    };
    let mut cutter = Cutter::new(protocol.clone(), args.replies);
    let mut table = Table::new(BufWriter::new(io::stdout().lock()), &*protocol);
    match fill(&mut table, &mut cutter, &mut io::stdin().lock()) {
        Ok(end) => conclude(&cutter, &end, &*protocol),
        // Who read the table has seen enough, as `head` has.
        Err(Fault::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Done,
        Err(Fault::Write(error)) => fail(Exit::Failed, format_args!("cannot write: {error}")),
        Err(Fault::Read(error)) => fail(Exit::Failed, format_args!("cannot read standard input: {error}")),
    }
}

impl Args {
    fn protocol(&self) -> Result<Arc<dyn Protocol>, Exit> {
        let shown = |errors: Vec<_>, exit| {
            show(&errors);
            exit
        };
        let (Some(file), Some(name)) = (&self.config, &self.upstream) else {
            let name = self.protocol.as_deref().unwrap_or_default();
            return protocol_named(name).map_err(|errors| shown(errors, Exit::Usage));
        };
        let plan = Source::read(file).and_then(|source| Plan::new(&source));
        match plan.map_err(|errors| shown(errors, Exit::Config))?.upstream(name) {
            Ok(upstream) => Ok(upstream.protocol.clone()),
            Err(reason) => Err(fail(Exit::Usage, format_args!("{}: {reason}", file.display()))),
        }
    }
}

/// Why the table was left unfinished.
#[derive(Debug)]
enum Fault {
    Read(io::Error),
    Write(io::Error),
}

/// What stands behind the last message.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// Nothing.
    Whole,
    /// So many bytes of another one.
    Incomplete(usize, Need),
    /// What is none, for this reason; so it begins.
    Malformed(Malformed, Vec<u8>),
}

/// Writes a row for each message that `capture` holds.
fn fill(table: &mut Table<impl Write>, cutter: &mut Cutter, capture: &mut impl Read) -> Result<End, Fault> {
    let mut piece = vec![0; PIECE];
    loop {
        match cutter.step() {
            Step::Message(row) => table.row(&row).map_err(Fault::Write)?,
            Step::Missing(need) => {
                // The next piece may be long in coming.
                table.flush().map_err(Fault::Write)?;
                let size = read(capture, &mut piece).map_err(Fault::Read)?;
                cutter.feed(&piece[..size]);
                if size > 0 {
                    continue;
                }
                let Some(need) = need else { return Ok(End::Whole) };
                let rest = cutter.rest();
                table.row(&rest).and_then(|()| table.flush()).map_err(Fault::Write)?;
                return Ok(End::Incomplete(rest.length.unwrap_or_default(), need));
            }
            Step::Refused(row, BadRequest { reason, .. }, mut front) => {
                table.row(&row).and_then(|()| table.flush()).map_err(Fault::Write)?;
                while front.len() < FRONT {
                    let missing = FRONT - front.len();
                    match read(capture, &mut piece[..missing]).map_err(Fault::Read)? {
                        0 => break,
                        size => front.extend_from_slice(&piece[..size]),
                    }
                }
                return Ok(End::Malformed(reason, front));
            }
        }
    }
}

fn read(from: &mut impl Read, piece: &mut [u8]) -> io::Result<usize> {
    loop {
        match from.read(piece) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Says on stderr what the table comes to.
fn conclude(cutter: &Cutter, end: &End, protocol: &dyn Protocol) -> Exit {
    let (messages, offset) = (cutter.messages, cutter.offset);
    let plural = if messages == 1 { "" } else { "s" };
    let mut text = match end {
        End::Whole if messages == 0 => "standard input is empty: there is nothing to explain".to_owned(),
        _ => format!("{messages} message{plural}, {offset} bytes"),
    };
    // Writing to a string cannot fail.
    let _ = match end {
        End::Whole => Ok(()),
        End::Incomplete(there, need) => match need.total() {
            Some(total) => write!(
                text,
                "; then {there} bytes of a message of {total} bytes: it was cut off, or its length is wrong"
            ),
            None => write!(text, "; then {there} bytes of a message whose end is not known yet"),
        },
        End::Malformed(reason, front) => {
            let before = if messages > 0 { "; or the message before it ends elsewhere" } else { "" };
            write!(
                text,
                "\nwarmline: no message at offset {offset}: {reason}\n  {}\n  {}{before}",
                table::dump(front),
                protocol.remedy(*reason)
            )
        }
    };
    // The table says it, too.
    let _ = writeln!(io::stderr(), "{text}");
    if matches!(end, End::Malformed(..)) { Exit::Failed } else { Exit::Done }
}
