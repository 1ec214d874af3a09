import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Sandbox } from 'e2b'
import { eventually, routed, traffic, withSandbox } from './fixtures.mjs'

test(
  'a server inside, by headers and by host name',
  withSandbox(async (sandbox) => {
    await sandbox.files.write('site/index.html', 'from inside')
    const serve = 'python3 -m http.server 8000 --bind 127.0.0.1 --directory site'
    await sandbox.commands.run(serve, { background: true, timeoutMs: 0 })
    const byHeaders = await eventually(
      async () => {
        const answer = await traffic(routed(sandbox, 8000))
        return answer.status === 200 && answer
      },
      10_000,
      'the server inside listens'
    )
    assert.equal(byHeaders.body, 'from inside')
    const byHost = await traffic({ Host: sandbox.getHost(8000) })
    assert.equal(byHost.body, 'from inside')
  })
)

test(
  'a port with nobody listening',
  withSandbox(async (sandbox) => {
    const answer = await traffic(routed(sandbox, 8999))
    assert.equal(answer.status, 502)
    assert.deepEqual(JSON.parse(answer.body), {
      sandboxId: sandbox.sandboxId,
      message: 'The sandbox is running but port is not open',
      port: 8999,
      code: 502,
    })
  })
)

test('a killed sandbox', async () => {
  const sandbox = await Sandbox.create({ timeoutMs: 60_000 })
  await sandbox.kill()
  const answer = await traffic(routed(sandbox, 8000))
  assert.equal(answer.status, 502)
  assert.equal(JSON.parse(answer.body).message, 'The sandbox was not found')
})
