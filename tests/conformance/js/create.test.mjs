import assert from 'node:assert/strict'
import { test } from 'node:test'
import { AuthenticationError, NotFoundError, Sandbox, SandboxError } from 'e2b'
import { eventually, withSandbox } from './fixtures.mjs'

test('create, use, kill', async () => {
  const sandbox = await Sandbox.create({ timeoutMs: 60_000 })
  assert.match(sandbox.sandboxId, /^i[a-z0-9]{20}$/)
  assert.equal(await sandbox.isRunning(), true)
  assert.equal(await sandbox.kill(), true)
  assert.equal(await sandbox.isRunning(), false)
  assert.equal(await Sandbox.kill(sandbox.sandboxId), false)
  await assert.rejects(Sandbox.getInfo(sandbox.sandboxId), NotFoundError)
})

test(
  'info tells what was asked for',
  withSandbox(
    async (sandbox) => {
      const info = await sandbox.getInfo()
      assert.equal(info.sandboxId, sandbox.sandboxId)
      assert.equal(info.name, 'base')
      assert.equal(info.state, 'running')
      assert.deepEqual(info.metadata, { purpose: 'info', 'a&b=': 'ж ?' })
      const life = info.endAt.getTime() - info.startedAt.getTime()
      assert.ok(life > 85_000 && life <= 100_000, String(life))
      assert.ok(info.cpuCount >= 1 && info.memoryMB >= 128)
    },
    { timeoutMs: 90_000, metadata: { purpose: 'info', 'a&b=': 'ж ?' } }
  )
)

test('the deadline kills', async () => {
  const sandbox = await Sandbox.create({ timeoutMs: 2_000 })
  await eventually(async () => !(await sandbox.isRunning()), 5_000, 'it ends by itself')
})

test(
  'the timeout can be moved',
  withSandbox(async (sandbox) => {
    await sandbox.setTimeout(600_000)
    const left = (await sandbox.getInfo()).endAt.getTime() - Date.now()
    assert.ok(left > 590_000 && left <= 601_000, String(left))
  })
)

test(
  'connect from another client',
  withSandbox(async (sandbox) => {
    await sandbox.files.write('here', 'there')
    const other = await Sandbox.connect(sandbox.sandboxId)
    assert.equal(await other.files.read('here'), 'there')
  })
)

test('connect to nothing', async () => {
  await assert.rejects(Sandbox.connect('i' + 'z'.repeat(20)), NotFoundError)
})

test('a wrong key is refused', async () => {
  const apiKey = 'e2b_' + '0'.repeat(40)
  await assert.rejects(Sandbox.create({ apiKey }), AuthenticationError)
})

test('an unknown template is refused', async () => {
  await assert.rejects(Sandbox.create('no-such-template'), (error) => {
    assert.ok(error instanceof SandboxError)
    assert.match(error.message, /template 'no-such-template' not found/)
    return true
  })
})

test(
  'metrics',
  withSandbox(async (sandbox) => {
    const [sample] = await eventually(
      async () => {
        const samples = await sandbox.getMetrics()
        return samples.length > 0 && samples
      },
      20_000,
      'the first sample'
    )
    assert.ok(sample.memTotal > 0 && sample.memUsed > 0 && sample.cpuCount >= 1)
  })
)
