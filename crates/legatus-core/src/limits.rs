//! Limits that both ends of the wire share. Each says why it is that number.

/// Bytes of one module message, at most: a data chunk of 1 MiB and 64 KiB for what surrounds it.
pub const MESSAGE_BYTES: usize = (1 << 20) + (64 << 10);

/// Bytes that a half should put into one data message. With 256 KiB the cost of a message is
/// below 1 % of the cost of its bytes (encryption at about 3 GB/s), and two of them still fit into
/// a level 2 cache.
pub const CHUNK_BYTES: usize = 256 << 10;

/// Bytes that wait in one direction of a [`Channel`](crate::Channel) before its writer waits too:
/// four chunks keep reading, hashing and sending busy at the same time.
pub const CHANNEL_BYTES: usize = 4 * CHUNK_BYTES;

/// Messages that wait in one direction of a channel, whatever their size, so that empty messages
/// are bounded as well.
pub const CHANNEL_MESSAGES: usize = 64;

/// Controls (signals, resizes) that wait for a Commander. A terminal that is resized by dragging
/// sends some tens a second; more than these are dropped, oldest kept.
pub const CONTROLS: usize = 32;

/// Arguments of one call, all together with the request, in bytes: what Linux allows to `execve`
/// by default (a quarter of an 8 MiB stack limit), below the wire's message size.
pub const REQUEST_BYTES: usize = 1 << 20;

/// Bytes of messages that a kept call holds at most: what waits for a client that is away, and what
/// is there for those who attach later. About as many lines as people scroll back through.
pub const SESSION_BYTES: usize = 8 << 20;

/// Bytes of a client's own messages that it keeps until the other side has taken them: when it has so many, it
/// sends no more, so that there are at most these and one message. More than the windows on the way hold, so
/// that it never waits for acknowledgements alone.
pub const UNTAKEN_BYTES: usize = 8 << 20;

/// Bytes that a message counts for beside its own, where messages are kept: what keeping it costs.
pub const KEPT_MESSAGE_BYTES: usize = 64;

/// Bytes of a kept call's name; a label for people.
pub const SESSION_NAME_BYTES: usize = 64;

/// The longest that a call is kept without a client, or its outcome without anyone to take it:
/// whoever has not come back after a month will not.
pub const SESSION_TIME: std::time::Duration = std::time::Duration::from_secs(30 * 24 * 3600);

/// The shortest that an outcome is kept without anyone to take it: servers look for ended calls every 2
/// seconds, and note their end.
pub const OUTCOME_KEPT: std::time::Duration = std::time::Duration::from_secs(5);
