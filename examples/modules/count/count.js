// Counts lines, words and bytes, as wc(1) does, on the server. Both halves of the module are here:
// the server half counts what it receives, the client half sends standard input or files, and prints.
import channel from 'legatus:module/channel@1.0.0';
import caller from 'legatus:module/caller@1.0.0';
import local from 'legatus:module/local@1.0.0';

const argument = (name, kind, help, rest) => ({
  name, short: null, kind, value: 'text', valueName: '', help, required: false, repeated: false,
  ...rest,
});

export const descriptions = {
  describe: () => [{
    name: 'count',
    version: '1.0.0',
    summary: 'Count lines, words and bytes on the server',
    details: 'Standard input, or the files that are named, is sent to the server, which counts.',
    effects: { read: false, write: false, exec: false },
    arguments: [
      argument('file', 'positional', 'Files of this machine [default: standard input]',
        { value: 'path', valueName: 'FILE', repeated: true }),
      argument('lines', 'flag', 'Print the number of lines only', { short: 'l' }),
      argument('words', 'flag', 'Print the number of words only', { short: 'w' }),
      argument('bytes', 'flag', 'Print the number of bytes only', { short: 'c' }),
    ],
    examples: [
      { command: 'legatus count web1', explanation: 'Counts standard input' },
      { command: 'legatus count web1 --lines', explanation: 'Prints the number of lines only' },
    ],
    commander: true,
    sender: true,
  }],
};

const ascii = (text) => Uint8Array.from(text, (letter) => letter.charCodeAt(0));

// Whether a byte separates words.
const BLANK = Uint8Array.from({ length: 256 }, (_, byte) => ' \t\n\v\f\r'.includes(String.fromCharCode(byte)));

// A call that fails tells a message, and what the user could do. Functions of the contract throw
// texts, or one of the words of `channel-error`.
const fault = (error) => ({
  message: typeof error === 'string' ? error : (error.message ?? String(error)),
  hint: error.hint ?? null,
});

// Adds a part of a text to its lines, words and bytes; whether the text ends within a word.
function add(counts, part, inWord) {
  for (let at = part.indexOf(10); at >= 0; at = part.indexOf(10, at + 1)) counts[0] += 1;
  let blank = inWord ? 0 : 1;
  let words = 0;
  for (let at = 0, end = part.length; at < end; at += 1) {
    const before = blank;
    blank = BLANK[part[at]];
    words += before & (blank ^ 1);
  }
  counts[1] += words;
  counts[2] += part.length;
  return !blank;
}

function execute() {
  let counts = [0, 0, 0];
  let inWord = false;
  for (let part = channel.receive(); part !== null; part = channel.receive()) {
    if (part.length > 0) {
      inWord = add(counts, part, inWord);
    } else {
      channel.send(ascii(counts.join(' ')));
      counts = [0, 0, 0];
      inWord = false;
    }
  }
  return 0;
}

// The server half: a message is a part of a text, an empty one its end, after which the counts are
// sent back: lines, words and bytes.
export const commander = {
  execute() {
    try {
      return execute();
    } catch (error) {
      throw fault(error);
    }
  },
};

// Sends all that `next` returns, and returns what the server has counted.
function counted(next) {
  for (let bytes = next(); bytes !== null; bytes = next()) channel.send(bytes);
  channel.send(new Uint8Array(0));
  const answer = channel.receive();
  if (answer === null) return null;
  return String.fromCharCode(...answer).split(' ').map(Number);
}

// The line for one text. Names are bytes, which need not be UTF-8.
function shown(counts, name, given) {
  const asked = ['lines', 'words', 'bytes'].map((flag) => given.has(flag));
  const numbers = counts.filter((_, place) => asked[place] || !asked.includes(true));
  const text = ascii(numbers.map((one) => String(one).padStart(7)).join(' '));
  return Uint8Array.from(name === null ? [...text, 10] : [...text, 32, ...name, 10]);
}

function file(name) {
  const id = local.openFile(name);
  try {
    return counted(() => local.readFile(id));
  } finally {
    local.closeFile(id);
  }
}

function send(given) {
  caller.open([]);
  const names = given.get('file') ?? [null];
  for (const name of names) {
    const counts = name === null ? counted(() => local.readInput()) : file(name);
    if (counts === null) break;
    local.writeOutput(shown(counts, name, given));
  }
  channel.finish();
  while (channel.receive() !== null);
  return caller.waitOutcome();
}

export const sender = {
  send(module, args) {
    try {
      return send(new Map(args.map((one) => [one.name, one.values])));
    } catch (error) {
      throw fault(error);
    }
  },
};
