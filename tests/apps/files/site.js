const http = require('http');
const { greeting } = require('/src/greeting.js');
http.createServer((request, response) => response.end(greeting)).listen(3000, () => console.log('listening'));
process.on('SIGTERM', () => process.exit(0));
