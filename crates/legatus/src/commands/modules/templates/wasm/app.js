// NAME: a module for Legatus.
import channel from 'legatus:module/channel@1.0.0';

export const descriptions = {
  describe: () => [{
    name: 'NAME',
    version: '0.1.0',
    summary: 'Greet somebody',
    details: '',
    effects: { read: false, write: false, exec: false },
    arguments: [{
      name: 'whom', short: null, kind: 'positional', value: 'text', valueName: 'WHOM',
      help: 'Whom to greet', required: true, repeated: false,
    }],
    examples: [{ command: 'legatus NAME web1 world', explanation: 'Greets the world' }],
    commander: true,
    sender: false,
  }],
};

const bytes = (text) => Uint8Array.from(text, (letter) => letter.charCodeAt(0));

// Greets the first argument, then sends back what it gets. Returns the exit status.
function execute(words) {
  if (words.length !== 1) throw { message: 'whom to greet?', hint: 'name somebody' };
  channel.send(Uint8Array.from([...bytes('hello, '), ...words[0], ...bytes('\n')]));
  for (let message = channel.receive(); message !== null; message = channel.receive()) {
    channel.send(message);
  }
  return 0;
}

export const commander = {
  execute(module, call) {
    try {
      return execute(call.arguments);
    } catch (error) {
      // Only an object with these two is a fault; functions of the contract throw words.
      throw { message: error.message ?? String(error), hint: error.hint ?? null };
    }
  },
};
