//! Frames that carry descriptors: the first one of a call, and of each attachment to a kept one.

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

/// Descriptors that one frame carries, at most.
const MOST: usize = 2;

/// Writes a frame's header and sends descriptors along with it.
pub(crate) fn send_header(
    socket: impl AsFd,
    header: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
    let sent = rustix::net::sendmsg(
        socket,
        &[IoSlice::new(header)],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )?;
    if sent == HEADER_BYTES {
        Ok(())
    } else {
        Err(io::Error::other("the socket did not take a whole header"))
    }
}

/// Reads a frame's header and the descriptors that come along.
pub(crate) fn receive_header(socket: impl AsFd) -> io::Result<([u8; HEADER_BYTES], Vec<OwnedFd>)> {
    let mut header = [0; HEADER_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::net::recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut header)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let rights = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let descriptors: Vec<OwnedFd> = rights.flatten().collect();
    if received.bytes == HEADER_BYTES {
        Ok((header, descriptors))
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
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
            send_header(&*stream, &header, descriptors)
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
