//! An output stream as JSON objects, one a line, for `--json`.

use std::io;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::{Bytes, BytesMut};
use legatus_core::{BoxFuture, Output, Stream};
use serde::Serialize;

use super::output::DescriptorOutput;

/// An output stream as lines such as `{"stream":"stdout","data":"text"}`.
pub(super) struct JsonOutput {
    name: &'static str,
    lines: DescriptorOutput,
    /// The beginning of a character whose end has not come yet; 3 bytes at most. It waits for
    /// the end, also when all else is flushed, until the output is dropped.
    begun: Bytes,
}

#[derive(Serialize)]
struct Line<'a> {
    stream: &'static str,
    #[serde(flatten)]
    content: Content<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Content<'a> {
    Data(&'a str),
    Base64(String),
}

impl JsonOutput {
    pub(super) fn new(stream: Stream, lines: DescriptorOutput) -> Self {
        let name = match stream {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        };
        Self {
            name,
            lines,
            begun: Bytes::new(),
        }
    }

    async fn put(&mut self, bytes: Bytes) -> io::Result<()> {
        let (now, begun) = split(join(&self.begun, bytes));
        // The line waits for room before anything changes, so that a write can be given up.
        self.lines.put(line(self.name, &now)?).await?;
        self.begun = begun;
        Ok(())
    }
}

impl Drop for JsonOutput {
    fn drop(&mut self) {
        // A Sender flushes before it ends, so there is room.
        if let Ok(rest) = line(self.name, &self.begun) {
            self.lines.put_now(rest);
        }
    }
}

fn join(begun: &Bytes, bytes: Bytes) -> Bytes {
    if begun.is_empty() {
        return bytes;
    }
    let mut whole = BytesMut::with_capacity(begun.len() + bytes.len());
    whole.extend_from_slice(begun);
    whole.extend_from_slice(&bytes);
    whole.freeze()
}

/// What can be shown now, and the beginning of a character behind it.
fn split(mut bytes: Bytes) -> (Bytes, Bytes) {
    match std::str::from_utf8(&bytes) {
        Err(error) if error.error_len().is_none() => {
            let begun = bytes.split_off(error.valid_up_to());
            (bytes, begun)
        }
        Ok(_) | Err(_) => (bytes, Bytes::new()),
    }
}

/// The line for these bytes; nothing for none.
fn line(stream: &'static str, bytes: &[u8]) -> io::Result<Bytes> {
    if bytes.is_empty() {
        return Ok(Bytes::new());
    }
    let content = match std::str::from_utf8(bytes) {
        Ok(text) => Content::Data(text),
        Err(_) => Content::Base64(BASE64_STANDARD.encode(bytes)),
    };
    let mut line = serde_json::to_vec(&Line { stream, content })?;
    line.push(b'\n');
    Ok(line.into())
}

impl Output for JsonOutput {
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(self.put(bytes))
    }

    fn flush(&mut self) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(self.lines.settle())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(bytes: &[u8]) -> String {
        String::from_utf8(line("stdout", bytes).unwrap().to_vec()).unwrap()
    }

    #[test]
    fn text_is_data_and_anything_else_base64() {
        assert_eq!(shown(b""), "");
        assert_eq!(
            shown(b"a\"\n"),
            "{\"stream\":\"stdout\",\"data\":\"a\\\"\\n\"}\n"
        );
        assert_eq!(
            shown(b"\xff\0"),
            "{\"stream\":\"stdout\",\"base64\":\"/wA=\"}\n"
        );
    }

    #[test]
    fn a_character_cut_in_two_waits_for_its_end() {
        let (now, begun) = split(Bytes::from_static(b"a\xe2\x82"));
        assert_eq!((&now[..], &begun[..]), (&b"a"[..], &b"\xe2\x82"[..]));
        let (now, begun) = split(join(&begun, Bytes::from_static(b"\xacb")));
        assert_eq!((&now[..], &begun[..]), ("\u{20ac}b".as_bytes(), &b""[..]));
    }

    #[test]
    fn what_is_no_text_at_all_never_waits() {
        let (now, begun) = split(Bytes::from_static(b"\xff\xfe\xe2"));
        assert_eq!((now.len(), begun.len()), (3, 0));
    }
}
