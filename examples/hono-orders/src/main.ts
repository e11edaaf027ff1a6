/** Server of the application. SIGTERM and Ctrl-C end it after the requests that run. */

import { serve } from "@hono/node-server";

import { application } from "./app.js";
import { Gateway } from "./gateway.js";

const { FABRIC_URL = "http://127.0.0.1:7780", FABRIC_TOKEN, HOST = "127.0.0.1", PORT = "3000" } = process.env;
if (!FABRIC_TOKEN) {
  console.error("FABRIC_TOKEN is not set; give it a token with the scope send, as in README.md");
  process.exit(2);
}

const app = application(new Gateway({ url: FABRIC_URL, token: FABRIC_TOKEN }));
const server = serve({ fetch: app.fetch, hostname: HOST, port: Number(PORT) }, ({ port }) => {
  console.log(`listening at http://${HOST}:${port}`);
});

for (const signal of ["SIGTERM", "SIGINT"] as const) {
  process.once(signal, () => server.close(() => process.exit(0)));
}
