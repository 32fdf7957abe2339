//! Bytes and frames that carry descriptors: the first frame of a call, and of each attachment to a
//! kept one, and requests for new processes.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;

use crate::frame::{self, Frame, HEADER_BYTES};

/// Descriptors that come along at once, at most.
const MOST: usize = 3;

/// Writes a few bytes, all of them, and sends descriptors along.
pub(crate) fn send_bytes(
    socket: impl AsFd,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("too many descriptors for one message"));
    }
    let sent = rustix::net::sendmsg(
        socket,
        &[IoSlice::new(bytes)],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )?;
    if sent == bytes.len() {
        Ok(())
    } else {
        Err(io::Error::other(
            "the socket did not take a few bytes whole",
        ))
    }
}

/// Fills `bytes`, and takes the descriptors that come along; `None` at the end of what is sent.
pub(crate) fn receive_bytes(
    socket: impl AsFd,
    bytes: &mut [u8],
) -> io::Result<Option<Vec<OwnedFd>>> {
    let length = bytes.len();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::net::recvmsg(
        socket,
        &mut [IoSliceMut::new(bytes)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let rights = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let descriptors: Vec<OwnedFd> = rights.flatten().collect();
    match received.bytes {
        0 => Ok(None),
        all if all == length => Ok(Some(descriptors)),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Reads a frame's header and the descriptors that come along.
pub(crate) fn receive_header(socket: impl AsFd) -> io::Result<([u8; HEADER_BYTES], Vec<OwnedFd>)> {
    let mut header = [0; HEADER_BYTES];
    match receive_bytes(socket, &mut header)? {
        Some(descriptors) => Ok((header, descriptors)),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Sends a frame with descriptors.
pub(crate) async fn send(
    stream: &mut UnixStream,
    frame: Frame,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let (header, payload) = frame.encode();
    stream
        .async_io(Interest::WRITABLE, || {
            send_bytes(&*stream, &header, descriptors)
        })
        .await?;
    stream.write_all(&payload).await
}

/// Receives a frame with the descriptors that come along, and nothing behind it.
pub(crate) async fn receive(stream: &mut UnixStream) -> io::Result<(Frame, Vec<OwnedFd>)> {
    let received = stream.async_io(Interest::READABLE, || receive_header(&*stream));
    let (header, descriptors) = received.await?;
    let length = frame::payload_bytes(header).map_err(io::Error::other)?;
    let mut bytes = header.to_vec();
    bytes.resize(HEADER_BYTES + length, 0);
    let payload = bytes.get_mut(HEADER_BYTES..).unwrap_or_default();
    stream.read_exact(payload).await?;
    let frame = frame::read(&mut bytes.as_slice()).map_err(io::Error::other)?;
    Ok((frame, descriptors))
}
