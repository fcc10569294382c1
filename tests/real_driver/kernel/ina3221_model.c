// SPDX-License-Identifier: MIT OR GPL-2.0-only
/*
 * An I2C bus with INA3221 chips on it, for the unmodified Linux driver to talk to.
 *
 * What is modelled, after TI's data sheet of the INA3221: the registers and their state after a
 * reset; the cycle of conversions that the configuration register sets; the conversion-ready flag,
 * which a cycle's end sets and reading it clears; that a bus transfer takes time. Not modelled:
 * alerts, limits, power-down.
 *
 * The world that the chips measure comes from user space, in one of two ways:
 *  - a word written to a register 01h..06h or 0Dh through /dev/i2c-N stays there;
 *  - a table of conversions written to <debugfs>/ina3221_model/<address> is played back. A register
 *    is looked up when it is read: it holds the last conversion that was complete by then. So it
 *    changes at exact times, whatever the scheduler does.
 *
 * Parameters: board (a node below /edgejoule in the device tree), bus (the bus number), transfer_us
 * (each transfer sleeps so long), ready (N: the conversion-ready flag is never set).
 *
 * The kernel lends some of its functions to modules that say GPL; this file may be used under the
 * MIT licence as well.
 */
#include <linux/bits.h>
#include <linux/debugfs.h>
#include <linux/delay.h>
#include <linux/fs.h>
#include <linux/i2c.h>
#include <linux/ktime.h>
#include <linux/math64.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/of.h>
#include <linux/slab.h>
#include <linux/swab.h>
#include <linux/uaccess.h>

#define CONFIG		0x00
#define FIRST_VALUE	0x01
#define LAST_VALUE	0x06
#define SHUNT_SUM	0x0d
#define MASK_ENABLE	0x0f
#define REGISTERS	0x12
#define MANUFACTURER	0xfe
#define DIE		0xff

#define CONFIG_RESET	BIT(15)
#define CONFIG_CHANNELS	GENMASK(14, 12)
#define CONFIG_CONTINUOUS	BIT(2)
#define CONVERSION_READY	BIT(0)

#define VALUES		6
#define FIRST_ADDRESS	0x40
#define CHIPS		4
#define PLAY_MAGIC	0x31504a45	/* "EJP1" */
#define PLAY_MOST	(8 << 20)

static char *board = "orin-nano";
module_param(board, charp, 0444);
static int bus = 1;
module_param(bus, int, 0444);
static uint transfer_us;
module_param(transfer_us, uint, 0644);
static bool ready = true;
module_param(ready, bool, 0644);

/* What user space writes; then `cycles` times VALUES words, registers 01h to 06h in order. */
struct play {
	u32 magic;
	u32 cycles;
	s64 start_ns;			/* CLOCK_MONOTONIC */
	s64 period_ns;
	u32 complete_ns[VALUES];	/* when in its cycle each register's conversion is complete */
	u16 words[];
};

struct chip {
	bool there;
	u16 registers[REGISTERS];
	s64 start_ns;			/* of the conversions: when the configuration was written */
	s64 cycles_seen;		/* when the flag was last read */
	struct play *play;
};

static const u16 after_reset[REGISTERS] = {
	[CONFIG] = 0x7127,
	[0x07] = 0x7ff8, 0x7ff8, 0x7ff8, 0x7ff8, 0x7ff8, 0x7ff8,
	[0x0e] = 0x7ffe, 0x0002, 0x2710, 0x2328,
};

static struct chip chips[CHIPS];
static struct i2c_adapter adapter;
static struct dentry *directory;

static struct chip *chip_at(u16 address)
{
	unsigned int n = address - FIRST_ADDRESS;

	return n < CHIPS && chips[n].there ? &chips[n] : NULL;
}

/* Nanoseconds from one renewal of the registers to the next. */
static s64 cycle_ns(const struct chip *chip)
{
	static const u32 conversion_us[] = { 140, 204, 332, 588, 1100, 2116, 4156, 8244 };
	static const u16 averaged[] = { 1, 4, 16, 64, 128, 256, 512, 1024 };
	u16 config = chip->registers[CONFIG];
	s64 us = conversion_us[(config >> 6) & 7] + conversion_us[(config >> 3) & 7];

	us *= hweight16(config & CONFIG_CHANNELS);
	if (!(config & CONFIG_CONTINUOUS))
		us *= averaged[(config >> 9) & 7];
	return max_t(s64, us, 1) * NSEC_PER_USEC;
}

static s64 cycles_done(const struct chip *chip, s64 now_ns)
{
	const struct play *play = chip->play;

	if (play && now_ns >= play->start_ns && chip->registers[CONFIG] & CONFIG_CONTINUOUS)
		return div64_s64(now_ns - play->start_ns, play->period_ns);
	return div64_s64(now_ns - chip->start_ns, cycle_ns(chip));
}

static u16 value_word(const struct chip *chip, u8 reg, s64 now_ns)
{
	const struct play *play = chip->play;
	unsigned int n = reg - FIRST_VALUE;
	s64 since_ns, cycle;

	if (!play)
		return chip->registers[reg];
	since_ns = now_ns - play->start_ns - play->complete_ns[n];
	if (since_ns < 0)
		return chip->registers[reg];
	cycle = min_t(s64, div64_s64(since_ns, play->period_ns), play->cycles - 1);
	return play->words[cycle * VALUES + n];
}

static u16 chip_read(struct chip *chip, u8 reg, s64 now_ns)
{
	u16 word;
	s64 cycles;

	if (reg >= FIRST_VALUE && reg <= LAST_VALUE)
		return value_word(chip, reg, now_ns);
	if (reg == MANUFACTURER)
		return 0x5449;
	if (reg == DIE)
		return 0x3220;
	if (reg >= REGISTERS)
		return 0;
	word = chip->registers[reg];
	if (reg == MASK_ENABLE) {
		cycles = cycles_done(chip, now_ns);
		word &= ~CONVERSION_READY;
		if (ready && cycles != chip->cycles_seen)
			word |= CONVERSION_READY;
		chip->cycles_seen = cycles;
	}
	return word;
}

static void chip_reset(struct chip *chip)
{
	int reg;

	for (reg = 0; reg < REGISTERS; reg++)
		if (!(reg >= FIRST_VALUE && reg <= LAST_VALUE) && reg != SHUNT_SUM)
			chip->registers[reg] = after_reset[reg];
}

static void chip_write(struct chip *chip, u8 reg, u16 word, s64 now_ns)
{
	if (reg >= REGISTERS)
		return;
	chip->registers[reg] = word;
	if (reg != CONFIG)
		return;
	if (word & CONFIG_RESET)
		chip_reset(chip);
	chip->start_ns = now_ns;
	chip->cycles_seen = cycles_done(chip, now_ns);
}

/* The bus is locked while this runs. SMBus words are little-endian, the chip's are not. */
static s32 transfer(struct i2c_adapter *unused, u16 address, unsigned short flags, char direction,
		    u8 reg, int size, union i2c_smbus_data *data)
{
	struct chip *chip = chip_at(address);

	if (!chip)
		return -ENXIO;
	if (size == I2C_SMBUS_QUICK)
		return 0;
	if (size != I2C_SMBUS_WORD_DATA)
		return -EOPNOTSUPP;
	if (transfer_us)
		usleep_range(transfer_us, transfer_us + transfer_us / 16 + 1);
	if (direction == I2C_SMBUS_WRITE)
		chip_write(chip, reg, swab16(data->word), ktime_get_ns());
	else
		data->word = swab16(chip_read(chip, reg, ktime_get_ns()));
	return 0;
}

static u32 functionality(struct i2c_adapter *unused)
{
	return I2C_FUNC_SMBUS_QUICK | I2C_FUNC_SMBUS_WORD_DATA;
}

static const struct i2c_algorithm algorithm = {
	.smbus_xfer = transfer,
	.functionality = functionality,
};

/* A whole table comes in one write; one without cycles ends the playing. */
static ssize_t play_write(struct file *file, const char __user *from, size_t size, loff_t *at)
{
	struct chip *chip = file_inode(file)->i_private;
	struct play *play, *old;

	if (size < sizeof(*play) || size > PLAY_MOST)
		return -EINVAL;
	play = vmemdup_user(from, size);
	if (IS_ERR(play))
		return PTR_ERR(play);
	if (play->magic != PLAY_MAGIC || play->period_ns <= 0 ||
	    size != struct_size(play, words, (size_t)play->cycles * VALUES)) {
		kvfree(play);
		return -EINVAL;
	}
	if (!play->cycles) {
		kvfree(play);
		play = NULL;
	}
	i2c_lock_bus(&adapter, I2C_LOCK_SEGMENT);
	old = chip->play;
	chip->play = play;
	chip->cycles_seen = cycles_done(chip, ktime_get_ns());
	i2c_unlock_bus(&adapter, I2C_LOCK_SEGMENT);
	kvfree(old);
	return size;
}

static const struct file_operations play_operations = {
	.owner = THIS_MODULE,
	.open = simple_open,
	.write = play_write,
};

static int __init model_init(void)
{
	struct device_node *boards = of_find_node_by_path("/edgejoule");
	struct device_node *node = of_get_child_by_name(boards, board);
	struct device_node *child;
	char name[8];
	u32 address;
	int result;

	of_node_put(boards);
	if (!node) {
		pr_err("ina3221_model: no board %s in the device tree\n", board);
		return -ENODEV;
	}
	directory = debugfs_create_dir("ina3221_model", NULL);
	for_each_child_of_node(node, child) {
		if (of_property_read_u32(child, "reg", &address) ||
		    address < FIRST_ADDRESS || address >= FIRST_ADDRESS + CHIPS)
			continue;
		chips[address - FIRST_ADDRESS].there = true;
		chip_reset(&chips[address - FIRST_ADDRESS]);
		snprintf(name, sizeof(name), "%02x", address);
		debugfs_create_file(name, 0200, directory, &chips[address - FIRST_ADDRESS],
				    &play_operations);
	}
	adapter.owner = THIS_MODULE;
	adapter.algo = &algorithm;
	adapter.nr = bus;
	adapter.dev.of_node = node;	/* the I2C core makes its children devices of this bus */
	strscpy(adapter.name, "INA3221 model", sizeof(adapter.name));
	result = i2c_add_numbered_adapter(&adapter);
	if (result) {
		debugfs_remove_recursive(directory);
		of_node_put(node);
	}
	return result;
}

static void __exit model_exit(void)
{
	int n;

	i2c_del_adapter(&adapter);
	debugfs_remove_recursive(directory);
	of_node_put(adapter.dev.of_node);
	for (n = 0; n < CHIPS; n++)
		kvfree(chips[n].play);
}

module_init(model_init);
module_exit(model_exit);
MODULE_DESCRIPTION("INA3221 chips that play back a table of conversions");
MODULE_LICENSE("Dual MIT/GPL");
