// What the suites share: a sandbox for a test, waiting for a condition, a raw request.
//
// The server is started by whoever starts the suite, who says where it is in the SDK's own
// environment variables (E2B_API_KEY, E2B_API_URL, E2B_SANDBOX_URL, E2B_DOMAIN).

import http from 'node:http'
import { setTimeout as pause } from 'node:timers/promises'
import { Sandbox } from 'e2b'

export const SANDBOX_TIMEOUT_MS = 120_000

/** Runs `body` with a sandbox of its own and removes it afterwards. */
export function withSandbox(body, options = {}) {
  return async () => {
    const sandbox = await Sandbox.create({ timeoutMs: SANDBOX_TIMEOUT_MS, ...options })
    try {
      await body(sandbox)
    } finally {
      await sandbox.kill()
    }
  }
}

/** Waits until `check()` is true and returns its value. */
export async function eventually(check, limitMs, what) {
  const deadline = performance.now() + limitMs
  for (;;) {
    const value = await check()
    if (value) return value
    if (performance.now() > deadline) {
      throw new Error(`not within ${limitMs} ms: ${what}; last: ${value}`)
    }
    await pause(20)
  }
}

/** One raw request to the sandbox URL; answers with status, headers and body. */
export function traffic(headers, path = '/', method = 'GET', body = undefined) {
  const url = new URL(path, process.env.E2B_SANDBOX_URL)
  return new Promise((resolve, reject) => {
    const request = http.request(url, { method, headers, timeout: 30_000 }, (response) => {
      const pieces = []
      response.on('data', (piece) => pieces.push(piece))
      response.on('end', () =>
        resolve({
          status: response.statusCode,
          headers: response.headers,
          body: Buffer.concat(pieces).toString(),
        })
      )
    })
    request.on('error', reject)
    request.on('timeout', () => request.destroy(new Error('no answer')))
    request.end(body)
  })
}

/** The headers that route a request to a port inside a sandbox. */
export function routed(sandbox, port) {
  return { 'E2b-Sandbox-Id': sandbox.sandboxId, 'E2b-Sandbox-Port': String(port) }
}
