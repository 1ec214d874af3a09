import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  CommandExitError,
  InvalidArgumentError,
  Sandbox,
  SandboxNotFoundError,
  TimeoutError,
} from 'e2b'
import { eventually, withSandbox } from './fixtures.mjs'

test(
  'streams and exit codes',
  withSandbox(async (sandbox) => {
    const done = await sandbox.commands.run('echo out; echo err >&2')
    assert.equal(done.stdout, 'out\n')
    assert.equal(done.stderr, 'err\n')
    assert.equal(done.exitCode, 0)
    await assert.rejects(sandbox.commands.run('echo no; exit 7'), (error) => {
      assert.ok(error instanceof CommandExitError)
      assert.equal(error.exitCode, 7)
      assert.equal(error.stdout, 'no\n')
      return true
    })
    await assert.rejects(sandbox.commands.run('no-such-command-here'), { exitCode: 127 })
  })
)

test(
  'output comes as it is made',
  withSandbox(async (sandbox) => {
    const seen = []
    const began = performance.now()
    await sandbox.commands.run('for i in 1 2 3; do echo $i; sleep 0.4; done', {
      onStdout: (out) => seen.push([performance.now() - began, out]),
    })
    assert.equal(seen.map(([, out]) => out).join(''), '1\n2\n3\n')
    assert.ok(seen[0][0] < 700, 'the first line waited for the last')
  })
)

test(
  'environment, directory, user',
  withSandbox(
    async (sandbox) => {
      const done = await sandbox.commands.run('echo "$A|$B|$PWD|$(id -un)"', {
        envs: { B: 'mine' },
        cwd: '/tmp',
        user: 'root',
      })
      assert.equal(done.stdout, "everyone's|mine|/tmp|root\n")
      await assert.rejects(sandbox.commands.run('true', { cwd: '/no/such' }), InvalidArgumentError)
    },
    { envs: { A: "everyone's" } }
  )
)

test(
  'background, list, kill',
  withSandbox(async (sandbox) => {
    const handle = await sandbox.commands.run('sleep 600', { background: true })
    const pids = async () => (await sandbox.commands.list()).map((process) => process.pid)
    assert.ok((await pids()).includes(handle.pid))
    assert.equal(await handle.kill(), true)
    await assert.rejects(handle.wait(), CommandExitError)
    await eventually(async () => !(await pids()).includes(handle.pid), 5_000, 'it left the list')
    assert.equal(await sandbox.commands.kill(handle.pid), false)
  })
)

test(
  'connecting to a running command',
  withSandbox(async (sandbox) => {
    const handle = await sandbox.commands.run('sleep 0.8; echo seen', { background: true })
    await handle.disconnect()
    const again = await sandbox.commands.connect(handle.pid)
    assert.equal((await again.wait()).stdout, 'seen\n')
  })
)

test(
  'stdin',
  withSandbox(async (sandbox) => {
    const handle = await sandbox.commands.run('cat', { background: true, stdin: true })
    await sandbox.commands.sendStdin(handle.pid, 'to the end\n')
    await sandbox.commands.closeStdin(handle.pid)
    assert.equal((await handle.wait()).stdout, 'to the end\n')
  })
)

test(
  'the timeout ends it',
  withSandbox(async (sandbox) => {
    await assert.rejects(sandbox.commands.run('sleep 600', { timeoutMs: 1_000 }), TimeoutError)
    const still = async () =>
      (await sandbox.commands.list()).some((process) => process.args.includes('sleep 600'))
    await eventually(async () => !(await still()), 5_000, 'the process is gone')
  })
)

test(
  'twenty at once',
  withSandbox(async (sandbox) => {
    const numbers = [...Array(20).keys()]
    const run = (number) => sandbox.commands.run(`sleep 0.2; echo ${number}`)
    const done = await Promise.all(numbers.map(run))
    assert.deepEqual(done.map((one) => one.stdout), numbers.map((number) => `${number}\n`))
  })
)

test('the sandbox killed under a command', async () => {
  const sandbox = await Sandbox.create({ timeoutMs: 60_000 })
  const handle = await sandbox.commands.run('sleep 600', { background: true })
  const ended = assert.rejects(handle.wait(), TimeoutError)
  await sandbox.kill()
  await ended
  await assert.rejects(sandbox.commands.run('true'), SandboxNotFoundError)
})
