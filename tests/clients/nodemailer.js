// Sends the message on standard input's JSON, as services that are written for Node.js do; prints what was replied.
"use strict";

const fs = require("fs");
const nodemailer = require("nodemailer");

const { transport, message } = JSON.parse(fs.readFileSync(0, "utf8"));
if (transport.tls) transport.tls.ca = fs.readFileSync(transport.tls.ca);
nodemailer.createTransport(transport).sendMail(message).then(
    (sent) => console.log(sent.response),
    (error) => { console.error(error.message); process.exitCode = 1; },
);
