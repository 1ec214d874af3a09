// Pausing and resuming.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Sandbox } from 'e2b'
import { withSandbox } from './fixtures.mjs'

/** One REST call that has no method in every version of the SDK. */
async function rest(path, body) {
  const response = await fetch(new URL(path, process.env.E2B_API_URL), {
    method: 'POST',
    headers: { 'X-API-Key': process.env.E2B_API_KEY, 'Content-Type': 'application/json' },
    body: body && JSON.stringify(body),
  })
  await response.arrayBuffer()
  return response.status
}

test(
  'files and processes survive a pause',
  withSandbox(async (sandbox) => {
    await sandbox.files.write('/home/user/kept.txt', 'kept')
    const sleeper = await sandbox.commands.run('sleep 1000', { background: true })
    assert.equal(await rest(`/sandboxes/${sandbox.sandboxId}/pause`), 204)
    assert.equal(await rest(`/sandboxes/${sandbox.sandboxId}/pause`), 409)
    const again = await Sandbox.connect(sandbox.sandboxId)
    assert.equal(await again.files.read('/home/user/kept.txt'), 'kept')
    const pids = (await again.commands.list()).map((process) => process.pid)
    assert.ok(pids.includes(sleeper.pid))
  })
)

test(
  'a paused sandbox is listed and can be killed',
  withSandbox(async (sandbox) => {
    assert.equal(await rest(`/sandboxes/${sandbox.sandboxId}/pause`), 204)
    const page = await Sandbox.list({ query: { state: ['paused'] } }).nextItems()
    assert.ok(page.some((info) => info.sandboxId === sandbox.sandboxId))
    assert.equal(await Sandbox.kill(sandbox.sandboxId), true)
    assert.equal(await Sandbox.kill(sandbox.sandboxId), false)
  })
)
