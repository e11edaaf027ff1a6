/** Client of the gateway's queues: a message is accepted once, however often it has to be asked for. */

/** What the gateway answers to a message that it has accepted. */
export interface Accepted {
  id: string;
  /** "stored" if the gateway has a spool, else "queued"; "delivered" or "processed" where that was waited for. */
  state: string;
}

/** The gateway refuses the message, or has not accepted it in time: `status` is what to answer. */
export class NotAccepted extends Error {
  constructor(
    readonly status: 400 | 413 | 422 | 502 | 503,
    message: string,
    /** Of the gateway's problem, for programs; empty if there was none. */
    readonly type = "",
  ) {
    super(message);
  }
}

export interface Options {
  /** Where the gateway is, such as "http://127.0.0.1:7780". */
  url: string;
  /** A token with the scope "send" for the queue. */
  token: string;
  /** Milliseconds in which a message has to be accepted, all attempts together. */
  patience?: number;
  /** Milliseconds that one attempt may take. */
  attempt?: number;
  /** By default those of the platform. */
  fetch?: typeof fetch;
  pause?: (milliseconds: number) => Promise<void>;
}

/** Statuses after which the same request may succeed: busy, in progress, full or closing, and those of a proxy. */
const AGAIN = new Set([408, 409, 429, 500, 502, 503, 504]);

const sleep = (milliseconds: number) => new Promise<void>((resolve) => setTimeout(resolve, milliseconds));

export class Gateway {
  private readonly options: Required<Options>;

  constructor(options: Options) {
    this.options = { patience: 10_000, attempt: 3_000, fetch, pause: sleep, ...options };
  }

  /**
   * Put `body` into `queue`, and return when the gateway has accepted it.
   *
   * An attempt that fails by the network, or that the gateway asks to repeat, is repeated with the same key: if an
   * earlier one had arrived after all, the gateway answers as it did then, and the message is there once.
   *
   * @param key Names the message, at least for a day: the number of an order, or a UUID.
   * @throws NotAccepted
   */
  async send(queue: string, key: string, body: unknown): Promise<Accepted> {
    const { url, patience, pause } = this.options;
    const endsAt = Date.now() + patience;
    for (let attempt = 0; ; attempt++) {
      let problem: string;
      let wait = Math.min(100 * 2 ** attempt, 2_000) * (0.5 + Math.random() / 2);
      try {
        const response = await this.post(`${url}/v1/queues/${encodeURIComponent(queue)}/messages`, key, body);
        if (response.ok) return (await response.json()) as Accepted;
        const found = await problemOf(response);
        problem = found.detail;
        if (!AGAIN.has(response.status)) throw new NotAccepted(asked(response.status), problem, found.type);
        wait = Math.max(wait, 1_000 * (Number(response.headers.get("retry-after")) || 0));
      } catch (error) {
        if (error instanceof NotAccepted) throw error;
        problem = `the gateway at ${url} does not answer: ${reason(error)}; look whether it runs`;
      }
      if (Date.now() + wait > endsAt) throw new NotAccepted(503, problem);
      await pause(wait);
    }
  }

  private post(url: string, key: string, body: unknown): Promise<Response> {
    return this.options.fetch(url, {
      method: "POST",
      headers: {
        authorization: `Bearer ${this.options.token}`,
        "content-type": "application/json",
        "idempotency-key": key,
      },
      body: JSON.stringify(body),
      signal: AbortSignal.timeout(this.options.attempt),
    });
  }
}

/** What went wrong, of a problem (RFC 9457). */
async function problemOf(response: Response): Promise<{ type: string; detail: string }> {
  const problem = (await response.json().catch(() => ({}))) as { type?: string; title?: string; detail?: string };
  return { type: problem.type ?? "", detail: problem.detail ?? problem.title ?? `status ${response.status}` };
}

/** Why there is no answer: the network, of which `fetch` says only in the cause, or the time of the attempt. */
function reason(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const cause = error.cause as { code?: string; message?: string } | undefined;
  return cause?.code ?? (cause?.message || error.message);
}

/** What to answer for a refusal: what was sent is at fault, or else this application and how it is set up. */
function asked(status: number): NotAccepted["status"] {
  return status === 400 || status === 413 || status === 422 ? status : 502;
}
