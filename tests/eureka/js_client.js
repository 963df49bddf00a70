// eureka-js-client as a service would use it, told what to do line by line.
//
// Arguments: the server's port, its own application, host name and port. Reads commands from
// standard input and answers each with a line of JSON.
'use strict';

const readline = require('readline');
const { Eureka } = require('eureka-js-client');

const [serverPort, app, host, port] = process.argv.slice(2);
const quiet = { debug() {}, info() {}, warn() {}, error() {} };

const client = new Eureka({
  logger: quiet,
  shouldUseDelta: process.env.USE_DELTA === '1',
  instance: {
    app,
    hostName: host,
    ipAddr: '127.0.0.1',
    port: { $: Number(port), '@enabled': true },
    vipAddress: app,
    leaseInfo: { renewalIntervalInSecs: 1, durationInSecs: 3 },
    dataCenterInfo: {
      '@class': 'com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo',
      name: 'MyOwn',
    },
  },
  eureka: {
    host: '127.0.0.1',
    port: Number(serverPort),
    heartbeatInterval: 1000,
    registryFetchInterval: 1000,
  },
});

const say = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);

client.start((error) => {
  say(error ? `failed: ${error}` : 'started');
  readline.createInterface({ input: process.stdin }).on('line', (line) => {
    const [command, ...words] = line.split(' ');
    if (command === 'see') {
      // With deltas the client keeps those that stopped being UP, and leaves the choice to us.
      const up = client.getInstancesByAppId(words[0]).filter((one) => one.status === 'UP');
      say(up.map((one) => one.instanceId).sort());
    } else if (command === 'stop') {
      client.stop((fault) => {
        say(!fault);
        process.exit(0);
      });
    }
  });
});
