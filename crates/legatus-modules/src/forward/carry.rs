//! Carries the bytes of a connection through a call, in both directions.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use legatus_core::{
    ChannelClosed, ChannelReceiver, ChannelSender, Connection, Fault, PendingOutcome,
    limits::CHUNK_BYTES,
};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_util::io::poll_read_buf;

use super::messages::{End, Input, Output, input, output};

/// Bytes of a data message's prefix: the tag of field 1, and a length of up to three bytes.
const PREFIX_BYTES: usize = 4;
const _: () = assert!(
    CHUNK_BYTES < 1 << 21,
    "a longer length needs a longer prefix"
);

/// Bytes of room for data that comes now and then: a thousand idle connections cost 16 MiB.
const SMALL_BYTES: usize = 16 << 10;

/// Carries a connection of the server's side until both directions have ended.
///
/// # Errors
/// When the socket fails, or a message makes no sense.
pub(super) async fn serve(
    connection: impl Connection,
    sink: ChannelSender,
    mut source: ChannelReceiver,
) -> Result<(), Fault> {
    let (reader, mut writer) = tokio::io::split(connection);
    let to_client = async {
        upload(reader, &sink).await?;
        let end = Output {
            part: Some(output::Part::End(End {})),
        };
        sink.send(end.encode_to_vec().into()).await.map_err(gone)
    };
    let from_client = async {
        while let Some(message) = source.receive().await {
            let input = Input::decode(message)
                .map_err(|_| Fault::new("a message is no `legatus.forward.v1.Input`"))?;
            let Some(input::Part::Data(bytes)) = input.part else {
                continue;
            };
            // Whoever takes no more may still have something to say.
            if writer.write_all(&bytes).await.is_err() {
                return Ok(());
            }
        }
        writer.shutdown().await.ok();
        Ok(())
    };
    tokio::try_join!(to_client, from_client).map(|_| ())
}

/// Carries a connection of the client's side until the call has ended, or the connection takes
/// nothing any more.
///
/// A connection that fails, or is left, is not told as one that has said all: `pending` goes before the
/// sink does then. `patience`: how long the server may take to end after the connection has said all.
///
/// # Errors
/// When the socket fails, or a message makes no sense.
pub(super) async fn drive(
    connection: impl Connection,
    sink: ChannelSender,
    source: ChannelReceiver,
    pending: PendingOutcome,
    patience: Option<Duration>,
) -> Result<(), Fault> {
    let (reader, writer) = tokio::io::split(connection);
    let mut sink = Some(sink);
    let _outcome = pending;
    let to_server = async {
        if let Some(open) = &sink {
            upload(reader, open).await?;
        }
        // Tells the server that nothing more comes.
        sink = None;
        match patience {
            Some(patience) => tokio::time::sleep(patience).await,
            None => std::future::pending().await,
        }
        Ok(())
    };
    tokio::select! {
        result = download(source, writer) => result,
        result = to_server => result,
    }
}

/// Writes what the server sends, until its end.
async fn download(
    mut source: ChannelReceiver,
    mut writer: impl AsyncWrite + Unpin,
) -> Result<(), Fault> {
    while let Some(message) = source.receive().await {
        let written = match decode(message)? {
            Some(output::Part::Data(bytes)) => writer.write_all(&bytes).await,
            Some(output::Part::End(_)) => writer.shutdown().await,
            _ => Ok(()),
        };
        // Whoever takes nothing any more does not want the rest.
        if written.is_err() {
            break;
        }
    }
    Ok(())
}

/// Takes a message of the server apart.
pub(super) fn decode(message: Bytes) -> Result<Option<output::Part>, Fault> {
    let output = Output::decode(message).map_err(|_| {
        Fault::new("the server sent a message that is no `legatus.forward.v1.Output`")
    })?;
    Ok(output.part)
}

/// Sends all that comes out of `reader`, until its end, as `data` messages (which have the same
/// form in both directions).
async fn upload(mut reader: impl AsyncRead + Unpin, sink: &ChannelSender) -> Result<(), Fault> {
    let mut chunks = Chunks::default();
    loop {
        match chunks.next(&mut reader).await {
            Ok(Some(frame)) => sink.send(frame).await.map_err(gone)?,
            Ok(None) => return Ok(()),
            Err(error) => return Err(Fault::new(format!("the connection failed: {error}"))),
        }
    }
}

fn gone(_: ChannelClosed) -> Fault {
    Fault::new("the other side has gone")
}

/// A data message of these bytes.
pub(super) fn data(bytes: &[u8]) -> Bytes {
    let mut chunks = Chunks::default();
    chunks.buffer.put_bytes(0, PREFIX_BYTES);
    chunks.buffer.put_slice(bytes);
    chunks.finish(bytes.len())
}

/// Reads messages, copying no byte but out of the kernel: data is read right behind the room that
/// its prefix needs.
#[derive(Debug, Default)]
struct Chunks {
    buffer: BytesMut,
    /// Whether much came the last time.
    fast: bool,
}

impl Chunks {
    /// One message of what can be read now, waiting for something; `None` at the end.
    async fn next(&mut self, reader: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Bytes>> {
        let wanted = if self.fast { CHUNK_BYTES } else { SMALL_BYTES };
        self.buffer.clear();
        if self.buffer.capacity() < PREFIX_BYTES + wanted / 2 {
            self.buffer.reserve(PREFIX_BYTES + wanted);
        }
        self.buffer.put_bytes(0, PREFIX_BYTES);
        let room = (self.buffer.capacity() - PREFIX_BYTES).min(CHUNK_BYTES);
        let mut length = 0;
        poll_fn(|context| {
            while length < room {
                let mut rest = (&mut self.buffer).limit(room - length);
                match poll_read_buf(Pin::new(&mut *reader), context, &mut rest) {
                    Poll::Ready(Ok(0)) => break,
                    Poll::Ready(Ok(more)) => length += more,
                    // What ends the stream ends the next message, too.
                    Poll::Pending | Poll::Ready(Err(_)) if length > 0 => break,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => return Poll::Pending,
                }
            }
            Poll::Ready(Ok(()))
        })
        .await?;
        self.fast = length >= room / 2;
        Ok((length > 0).then(|| self.finish(length)))
    }

    /// Puts the prefix before data of this length; what it does not need of its room is skipped.
    fn finish(&mut self, length: usize) -> Bytes {
        /// Field 1, wire type 2: length-delimited.
        const TAG: u8 = 1 << 3 | 2;
        let mut frame = self.buffer.split();
        let unneeded = PREFIX_BYTES - 1 - prost::length_delimiter_len(length);
        if let Some(mut prefix) = frame.get_mut(unneeded..PREFIX_BYTES) {
            prefix.put_u8(TAG);
            // It has exactly as much room as the length needs.
            prost::encode_length_delimiter(length, &mut prefix).ok();
        }
        frame.freeze().split_off(unneeded)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_data_message_is_what_the_schema_says(bytes in proptest::collection::vec(any::<u8>(), 1..40_000)) {
            let written = Input { part: Some(input::Part::Data(bytes.clone().into())) };
            prop_assert_eq!(data(&bytes), written.encode_to_vec());
        }
    }

    #[tokio::test]
    async fn chunks_give_every_byte_once_and_then_the_end() {
        let text: Vec<u8> = (0..250).cycle().take(3 * CHUNK_BYTES).collect();
        let mut reader = text.as_slice();
        let mut chunks = Chunks::default();
        let mut seen = Vec::new();
        while let Some(frame) = chunks.next(&mut reader).await.unwrap() {
            let Some(input::Part::Data(bytes)) = Input::decode(frame).unwrap().part else {
                panic!("no data")
            };
            assert!(bytes.len() <= CHUNK_BYTES);
            seen.extend_from_slice(&bytes);
        }
        assert_eq!(seen, text);
    }
}
